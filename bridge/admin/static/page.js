"use strict";
// One event a second from the bridge; everything is written as text, never as markup.
const SHOWN_SECONDS = 120;
const FLOWS = ["deliveries", "acknowledged", "published"];
const history = [];
let last = null;

const at = (id) => document.getElementById(id);
const say = (id, text, kind = "") => { const e = at(id); if (e.textContent !== text) e.textContent = text; e.className = kind; };
const count = (n) => n.toLocaleString("en");
const time = (ms) => new Date(ms).toLocaleTimeString("en-GB");

function span(seconds) {
  if (seconds === null) return "–";
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

function fill(id, rows, numbers = []) {
  const body = at(id).tBodies[0];
  body.replaceChildren(...(rows.length ? rows : [["none"]]).map((cells) => {
    const row = document.createElement("tr");
    cells.forEach((text, index) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (numbers.includes(index)) cell.className = "number";
      if (!rows.length) { cell.className = "none"; cell.colSpan = at(id).tHead.rows[0].cells.length; }
      row.append(cell);
    });
    return row;
  }));
}

function mean(now, before, name) {
  const n = now.timers[name].count - before.timers[name].count;
  return n > 0 ? (now.timers[name].sum - before.timers[name].sum) / n : null;
}

function draw() {
  const highest = Math.max(1, ...history.flatMap((each) => FLOWS.map((flow) => each[flow])));
  for (const flow of FLOWS) {
    const points = history.map((each, i) =>
      `${(600 * (SHOWN_SECONDS - history.length + i + 1)) / SHOWN_SECONDS},${136 - (132 * each[flow]) / highest}`);
    at(`line-${flow}`).setAttribute("points", points.join(" "));
    say(`rate-${flow}`, count(Math.round(history.at(-1)[flow])));
  }
  say("highest", count(Math.round(highest)));
  at("chart-text").textContent = `The last ${history.length} seconds; now, a second: ` +
    FLOWS.map((flow) => `${Math.round(history.at(-1)[flow])} ${flow}`).join(", ");
}

function show(now) {
  const status = now.status, journal = status.journal;
  say("version", status.version);
  say("ready", status.ready ? "yes" : `no: ${status.not_ready_reason}`, status.ready ? "good" : "bad");
  say("kafka", status.kafka.connected ? "connected" : "away", status.kafka.connected ? "good" : "bad");
  say("waiting", count(journal.deliveries));
  say("oldest", journal.deliveries ? span(journal.oldest_age_seconds) : "–");
  at("journal").value = journal.bytes / journal.max_bytes;
  say("bytes", `${bytes(journal.bytes)} of ${bytes(journal.max_bytes)}`);
  say("full", journal.time_to_full_seconds === null || journal.time_to_full_seconds > 30 * 86400
    ? "not filling" : span(journal.time_to_full_seconds),
    journal.time_to_full_seconds !== null && journal.time_to_full_seconds < 14400 ? "bad" : "");
  if (last && now.uptime > last.uptime) {
    const seconds = now.uptime - last.uptime;
    history.push(Object.fromEntries(FLOWS.map((flow) => [flow, (now.totals[flow] - last.totals[flow]) / seconds])));
    if (history.length > SHOWN_SECONDS) history.shift();
    draw();
    for (const name of ["acknowledge", "publish"]) {
      const seconds = mean(now, last, name);
      if (seconds !== null) say(name, span(seconds));
    }
  }
  last = now;
  fill("published", now.recent.published.map((e) => [time(e.received_ms), e.type, e.asset ?? "–",
    `${e.topic}-${e.partition}-${e.offset ?? "?"}`, e.id, span(e.acknowledge_seconds), span(e.publish_seconds)]), [5, 6]);
  fill("rejected", now.recent.rejected.map((e) => [time(e.at_ms), e.status, e.reason, e.source]));
  fill("dead_letters", now.recent.dead_letters.map((e) => [time(e.received_ms), e.reason, e.detail, e.id]));
  const topics = [...new Set([...Object.keys(now.topics), ...Object.keys(journal.parked)])].sort();
  fill("topics", topics.map((t) => [t, count(now.topics[t] ?? 0), count(journal.parked[t] ?? 0)]), [1, 2]);
}

function* flat(settings, path = "") {
  for (const [name, value] of Object.entries(settings)) {
    if (value && typeof value === "object" && !Array.isArray(value)) yield* flat(value, `${path}${name}.`);
    else yield [path + name, value === null || value === "" || value.length === 0 ? "–" : String(value)];
  }
}

const events = new EventSource("events");
events.addEventListener("configuration", (event) => {
  last = null;
  fill("configuration", [...flat(JSON.parse(event.data))]);
});
events.onmessage = (event) => { show(JSON.parse(event.data)); say("line", "live", "good"); };
events.onerror = () => { last = null; say("line", "no connection; trying again", "bad"); };
