"use strict";
// The bridge sends its configuration and the history of an hour once, then a snapshot each second.
// Everything is written as text, never as markup.
const POINTS = 360;
const FLOWS = ["deliveries", "acknowledged", "published"];
let hour = [];
let settings = null;
let shownProblems = "";

const at = (id) => document.getElementById(id);
const set = (id, text, kind = "") => { const e = at(id); if (e.textContent !== text) e.textContent = text; e.className = kind; };
const count = (n) => n.toLocaleString("en");
const time = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const moment = (seconds) => seconds === null ? "never" : new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC";

function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

function bytes(n) {
  let unit = 0;
  for (; n >= 1024 && unit < 4; unit++) n /= 1024;
  return `${n.toFixed(unit && n < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

function element(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

// Roles are explicit because the narrow layout shows tables as blocks, which hides their structure from assistive tools.
for (const table of document.querySelectorAll("table")) {
  table.setAttribute("role", "table");
  for (const group of table.querySelectorAll("thead, tbody")) group.setAttribute("role", "rowgroup");
  for (const row of table.querySelectorAll("tr")) row.setAttribute("role", "row");
  for (const head of table.querySelectorAll("th")) head.setAttribute("role", "columnheader");
}

function fill(id, rows, { empty = "none", numbers = [], exact = [] } = {}) {
  const heads = [...at(id).tHead.rows[0].cells];
  at(id).tBodies[0].replaceChildren(...(rows.length ? rows : [[empty]]).map((cells) => {
    const row = document.createElement("tr");
    row.setAttribute("role", "row");
    cells.forEach((text, index) => {
      const cell = element("td", text, numbers.includes(index) ? "number" : exact.includes(index) ? "exact" : "");
      cell.setAttribute("role", "cell");
      if (rows.length) cell.dataset.label = heads[index].textContent.trim();
      else { cell.className = "none"; cell.colSpan = heads.length; }
      row.append(cell);
    });
    return row;
  }));
}

function draw() {
  if (!hour.length) return;
  const highest = Math.max(1, ...hour.flatMap((point) => FLOWS.map((flow) => point[flow])));
  for (const flow of FLOWS) {
    const points = hour.map((point, i) =>
      `${(600 * (POINTS - hour.length + i + 1)) / POINTS},${136 - (132 * point[flow]) / highest}`);
    at(`line-${flow}`).setAttribute("points", points.join(" "));
  }
  set("highest", count(Math.round(highest)));
  const last = hour.at(-1);
  at("chart-text").textContent = `The last ${Math.round(hour.length / 6)} minutes; in the last ten seconds, a second: ` +
    FLOWS.map((flow) => `${last[flow]} ${flow}`).join(", ");
}

function showProblems(status) {
  const problems = status.health.filter((condition) => condition.state !== "ok");
  const key = JSON.stringify(problems.map((each) => [each.component, each.state, each.cause]));
  if (key === shownProblems) return;
  shownProblems = key;
  at("banner").className = `wide ${status.state}`;
  set("state", problems.length ? `${problems[0].component}: ${problems[0].state}` : "Everything works",
    { ok: "good", degraded: "warn", failing: "bad" }[status.state]);
  at("problems").replaceChildren(...problems.map((each) => {
    const item = document.createElement("li");
    const cause = element("p", "");
    cause.append(element("b", `${each.component} (${each.state})`), `: ${each.cause}. Since ${moment(each.since)}.`);
    item.append(cause, element("p", `Next step: ${each.next_step}`));
    return item;
  }));
}

function stateOf(status, component) {
  return status.health.find((condition) => condition.component === component)?.state;
}

function showEmpty(status, topics) {
  const empty = Object.values(topics).every((n) => n === 0) && status.journal.deliveries === 0;
  at("empty").hidden = !empty;
  if (!empty || settings === null) return;
  const scheme = settings.tls_certfile ? "https" : "http";
  const port = settings.listen.slice(settings.listen.lastIndexOf(":") + 1);
  const token = status.tokens === null ? "" : ` -H "x-gumlet-token: $TOKEN"`;
  at("curl").textContent = `curl -i ${scheme}://${location.hostname}:${port}/webhooks/gumlet${token} ` +
    `-H 'content-type: application/json' -d '{"type": "video.status.ready", "asset_id": "test"}'`;
  const names = (status.tokens ?? []).filter((each) => each.valid).map((each) => each.name);
  at("token-hint").textContent = status.tokens === null ? "No token is needed: authentication is disabled."
    : names.length ? `Replace $TOKEN by the token named ${names.join(" or ")} (BRIDGE_TOKENS or BRIDGE_TOKENS_FILE).`
      : "No token is valid now: add one to BRIDGE_TOKENS_FILE first.";
}

at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("curl").textContent);
    at("copied").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(at("curl"));
    at("copied").textContent = "selected; copy it with the keyboard";
  }
});

function show(now) {
  const status = now.status, journal = status.journal;
  set("version", status.version);
  showProblems(status);
  showEmpty(status, now.topics);
  const refusal = status.not_ready_reason ?? (stateOf(status, "tokens") === "failing" ? "no valid token" : null);
  set("ready", refusal === null ? "yes" : `no: ${refusal}`, refusal === null ? "good" : "bad");
  set("kafka", status.kafka.connected ? "connected" : "not connected", status.kafka.connected ? "good" : "bad");
  // A condition is of one topic ("topic gumlet.…") or of several with the same cause ("30 topics").
  const blocked = status.health.reduce((sum, { component }) =>
    sum + (component.startsWith("topic ") ? 1 : Number(/^(\d+) topics$/.exec(component)?.[1] ?? 0)), 0);
  set("blocked", blocked ? count(blocked) : "none", blocked ? "bad" : "good");
  const registry = stateOf(status, "registry");
  set("registry", status.registry.url === null ? "not used" : registry === "failing" ? "failing"
    : registry === "ok" ? "connected" : "configured", registry === "failing" ? "bad" : "");
  set("drift", status.drift ? `${count(status.drift)} unknown` : "none", status.drift ? "warn" : "");
  set("pending", count(journal.deliveries));
  set("oldest", journal.deliveries ? span(journal.oldest_age_seconds) : "–", journal.oldest_age_seconds > 60 ? "bad" : "");
  at("journal").value = journal.bytes / journal.max_bytes;
  set("bytes", `${bytes(journal.bytes)} of ${bytes(journal.max_bytes)}`);
  set("full", journal.time_to_full_seconds === null || journal.time_to_full_seconds > 30 * 86400
    ? "not filling" : span(journal.time_to_full_seconds),
    journal.time_to_full_seconds !== null && journal.time_to_full_seconds < 14400 ? "bad" : "");
  set("acknowledge", `to 200: ${span(now.current.acknowledge_seconds)}`);
  set("publish", `to Kafka: ${span(now.current.publish_seconds)}`);
  for (const flow of FLOWS) set(`rate-${flow}`, String(now.current[flow] ?? 0));
  if (now.point && now.point.at_ms !== hour.at(-1)?.at_ms) {
    hour.push(now.point);
    if (hour.length > POINTS) hour.shift();
    draw();
  }
  fill("published", now.recent.published.map((e) => [time(e.received_ms), e.type, e.asset ?? "–",
    `${e.topic}-${e.partition}-${e.offset ?? "?"}`, e.id, span(e.acknowledge_seconds), span(e.publish_seconds)]),
    { numbers: [5, 6], exact: [0, 1, 2, 3, 4] });
  fill("rejected", now.recent.rejected.map((e) => [time(e.at_ms), e.status, e.reason, e.source]), { exact: [0, 1, 2, 3] });
  fill("dead_letters", now.recent.dead_letters.map((e) => [time(e.received_ms), e.reason, e.detail, e.id]), { exact: [0, 1, 3] });
  const topics = [...new Set([...Object.keys(now.topics), ...Object.keys(journal.parked)])].sort()
    .filter((t) => now.topics[t] || journal.parked[t]);
  fill("topics", topics.map((t) => [t, count(now.topics[t] ?? 0), count(journal.parked[t] ?? 0)]),
    { numbers: [1, 2], exact: [0], empty: "nothing was published yet" });
  fill("failures", [["rejected request", "rejections"], ["dead letter", "dead_letters"]].flatMap(([kind, name]) =>
    Object.entries(status.last_hour[name]).map(([reason, n]) => [kind, reason, count(n)])), { numbers: [2], exact: [0, 1] });
  fill("tokens", (status.tokens ?? []).map((t) => [t.name, t.valid ? "valid" : "expired", moment(t.expires), moment(t.last_used)]),
    { exact: [0, 1, 2, 3], empty: "authentication is disabled" });
}

function* flat(values, path = "") {
  for (const [name, value] of Object.entries(values)) {
    if (value && typeof value === "object" && !Array.isArray(value)) yield* flat(value, `${path}${name}.`);
    else yield [path + name, value === null || value === "" || value.length === 0 ? "–" : String(value)];
  }
}

const events = new EventSource("events");
events.addEventListener("configuration", (event) => {
  settings = JSON.parse(event.data);
  at("curl").textContent = "";
  fill("configuration", [...flat(settings)], { exact: [0] });
});
events.addEventListener("history", (event) => { hour = JSON.parse(event.data); draw(); });
events.onmessage = (event) => { show(JSON.parse(event.data)); set("line", "live", "good"); };
events.onerror = () => {
  set("line", "no connection; trying again", "bad");
  at("banner").className = "wide failing";
  set("state", "The bridge does not answer: these figures are old", "bad");
  shownProblems = "";
};
