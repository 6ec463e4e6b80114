// Validates the AsyncAPI document named on the command line with AsyncAPI's own parser; fails on errors and warnings.
import { Parser, fromFile } from "@asyncapi/parser";

const parser = new Parser();
const { document, diagnostics } = await fromFile(parser, process.argv[2]).parse();
const FOUND = diagnostics.filter(({ severity }) => severity <= 1);
for (const { severity, path, message } of FOUND) {
  console.error(`${severity === 0 ? "error" : "warning"}: ${path.join(".")}: ${message}`);
}
if (FOUND.length || !document) process.exit(1);
console.log(`${document.channels().all().length} channels, valid`);
