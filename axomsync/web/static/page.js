// The status page: shows the parts that api/events sends. Builds elements only, never HTML from text.
"use strict";

const FEW = 8;
const RETRY_MS = 3000;
const FACES = {
  good: "M15 25l6.5 6.5L34 18",
  busy: "M24 14v19m-8-7 8 8 8-8",
  bad: "M24 13v14M24 34v.5",
  warn: "M18.5 16v16M29.5 16v16",
  waiting: "M16 24h.5M24 24h.5M32 24h.5",
};
const MOODS = {
  uploaded: "good", published: "good", over: "good", started: "good",
  settling: "busy", checking: "busy", queued: "busy", uploading: "busy", downloading: "busy", verifying: "busy",
  rejected: "bad", held: "bad", failed: "bad", blocked: "bad", began: "bad",
};
const seen = { status: null, models: [], uploads: [], events: [], throughput: null, fault: null };
const open = { models: false, uploads: false, events: false };
let source = null, heardAt = Date.now(), lost = true, version = null;

const $ = (id) => document.getElementById(id);
function text(id, words) {
  const node = $(id);
  if (node.textContent !== words) node.textContent = words;
}
function make(tag, names, ...children) {
  const node = document.createElement(tag);
  if (names) node.className = names;
  node.append(...children.filter((child) => child !== null));
  return node;
}

// Words for numbers

function size(count) {
  if (count === null || count === undefined) return "–";
  let unit = 0;
  while (Math.abs(count) >= 999.5 && unit < 5) { count /= 1000; unit += 1; }
  return `${unit && count < 99.95 ? count.toFixed(1) : Math.round(count)} ${["B", "kB", "MB", "GB", "TB", "PB"][unit]}`;
}
const rate = (count) => `${size(count)}/s`;
function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const minutes = Math.round(s / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${hours / 24} d`;
}
const roughly = (seconds) => span(seconds).split(" ").slice(0, 2).join(" ");
const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const since = (iso) => (Date.now() - Date.parse(iso)) / 1000;
const ago = (iso) => `${roughly(since(iso))} ago`;
function when(iso, ahead) {
  const node = make("time", "", "");
  node.dateTime = iso;
  node.title = new Date(iso).toLocaleString();
  node.dataset.ahead = ahead || "";
  tick(node);
  return node;
}
function tick(node) {
  const seconds = (Date.parse(node.dateTime) - Date.now()) / 1000;
  node.textContent = node.dataset.ahead ? (seconds > 1 ? `${node.dataset.ahead} in ${span(seconds)}` : `${node.dataset.ahead} now`)
    : ago(node.dateTime);
}

// The verdict on top

function verdict() {
  const s = seen.status;
  if (lost) {
    if (!s) return ["waiting", "Connecting", "to the agent"];
    return ["warn", "No connection to the agent", `What you see is from ${new Date(heardAt).toLocaleTimeString()}. Trying again.`];
  }
  if (seen.fault) return ["bad", "Nothing new can be shown", seen.fault];
  if (!s) return ["waiting", "Connecting", "to the agent"];
  const moving = s.transfers.reduce((sum, t) => sum + t.rate, 0);
  const working = s.transfers.length ? `${many(s.transfers.length, "transfer")}, ${rate(moving)}` : "";
  if (s.problems.length) {
    return ["bad", many(s.problems.length, "problem"), working ? `The rest goes on: ${working}` : "No other transfers"];
  }
  if (s.agent.paused) return ["warn", "Paused", "run axomsync resume to continue"];
  if (s.console.ok === null) return ["waiting", "Starting", "The console has not answered yet"];
  if (working) {
    const left = Math.max(...s.transfers.map((t) => (t.eta === null ? 0 : t.eta)));
    return ["busy", "Working", left ? `${working}, about ${span(left)} left` : working];
  }
  return ["good", "All is well", "Everything is up to date"];
}
function showVerdict() {
  const [mood, head, sub] = verdict();
  document.body.dataset.mood = mood;
  document.body.classList.toggle("stale", lost && seen.status !== null);
  $("face").setAttribute("d", FACES[mood]);
  text("headline", head);
  text("subline", sub);
  text("link-words", lost ? "not connected" : "live");
  $("link").className = `link ${lost ? (seen.status ? "lost" : "") : "live"}`;
  document.title = mood === "bad" ? `(!) ${head} · axomsync` : `${head} · axomsync`;
}
function showProblems() {
  const problems = seen.status.problems;
  $("problems-card").hidden = problems.length === 0;
  $("problems").replaceChildren(...problems.map((p) => make("li", "",
    make("div", "line", make("span", "name", p.subject),
      make("span", "facts", `for ${roughly(since(p.since))}`),
      p.next_attempt ? make("span", "facts", when(p.next_attempt, "next try")) : null),
    make("p", "reason", p.reason))));
}
function showTiles() {
  const s = seen.status;
  text("version", s.version);
  text("agent-value", s.agent.paused ? "Paused" : "Running");
  text("agent-note", s.agent.since ? `for ${span(since(s.agent.since))}, pid ${s.agent.pid}` : "");
  text("console-value", { true: "Answers", false: "Failing", null: "No answer yet" }[s.console.ok]);
  text("console-note", s.console.last_poll ? `${s.console.ok === false ? "answered" : "asked"} ${ago(s.console.last_poll)}` : new URL(s.console.url).host);
  $("console-value").parentNode.classList.toggle("bad", s.console.ok === false);
  for (const [part, id, word] of [[s.drop, "drop", "upload"], [s.mirror, "mirror", "model"]]) {
    text(`${id}-value`, part.disk === "ok" ? `${size(part.free_bytes)} free` : { missing: "Missing", silent: "No answer", off: "Off" }[part.disk]);
    $(`${id}-value`).parentNode.classList.toggle("bad", part.disk === "missing" || part.disk === "silent");
    text(`${id}-note`, part.last_success ? `last ${word} ${ago(part.last_success)}` : part.folder);
    $(`${id}-note`).title = part.folder;
  }
  const left = s.drop.left_alone, alone = left.reduce((sum, one) => sum + one.files + (one.folders || 0), 0);
  $("drop-left").hidden = alone === 0;
  text("drop-left", `${alone} left alone`);
  showPromotion("mirror-waiting", s.mirror.waiting, "waits", (one) => (one.until ? "opens" : ""));
  showPromotion("mirror-trials", s.mirror.trials, "on trial", (one) => (one.until ? "ends" : ""));
  $("drop-left").title = left.map((one) => `${one.rule}: ${one.examples.join(", ")}; ${one.fix}`).join("\n");
}

// The first of the versions that wait for `current`, or that are on trial; the others on hover
function showPromotion(id, rows, word, ahead) {
  const first = rows[0], name = (one) => `${one.name}/${one.version}`;
  $(id).hidden = !first;
  if (!first) return;
  const more = rows.length > 1 ? `, and ${rows.length - 1} more` : "";
  $(id).replaceChildren(`${name(first)} ${word}${more}`, ...(ahead(first) ? [", ", when(first.until, ahead(first))] : []));
  $(id).title = rows.map((one) => `${name(one)} ${word}${one.until ? ` until ${new Date(one.until).toLocaleString()}` : ""}`).join("\n");
}

// Transfers keep their elements, so that bars move instead of jumping

const bars = new Map();
function showTransfers() {
  const transfers = seen.status.transfers;
  $("no-transfers").hidden = transfers.length > 0;
  const names = new Set(transfers.map((t) => `${t.direction} ${t.name}`));
  for (const [name, row] of bars) if (!names.has(name)) { row.remove(); bars.delete(name); }
  for (const t of transfers) {
    const name = `${t.direction} ${t.name}`;
    if (!bars.has(name)) bars.set(name, transferRow(t));
    const row = bars.get(name), total = t.bytes_total || 1;
    const share = Math.floor((100 * t.bytes_received) / total);
    row.querySelector(".received").style.width = `${(100 * t.bytes_received) / total}%`;
    row.querySelector(".done").style.width = `${(100 * t.bytes_done) / total}%`;
    const bar = row.querySelector(".bar");
    bar.setAttribute("aria-valuenow", share);
    bar.setAttribute("aria-valuetext", `${share} percent, ${rate(t.rate)}`);
    row.querySelector(".share").textContent = `${share} %`;
    row.querySelector(".facts.under").textContent =
      `${size(t.bytes_received)} of ${size(t.bytes_total)} · ${rate(t.rate)}${t.eta === null ? "" : ` · ${span(t.eta)} left`}`;
    $("transfers").append(row);
  }
}
function transferRow(t) {
  const bar = make("div", "bar", make("span", "received"), make("span", "done"));
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-valuemin", 0);
  bar.setAttribute("aria-valuemax", 100);
  bar.setAttribute("aria-label", `${t.direction === "up" ? "upload of" : "download of"} ${t.name}`);
  const arrow = make("span", "arrow", t.direction === "up" ? "↑" : "↓");
  arrow.setAttribute("aria-hidden", "true");
  return make("li", `is-${t.direction}`,
    make("div", "line", make("span", "name", arrow, t.name), make("span", "facts share")), bar, make("span", "facts under"));
}

// Lists

function showList(id, rows, row) {
  const shown = open[id] ? rows : rows.slice(0, FEW);
  $(`no-${id}`).hidden = rows.length > 0;
  $(id).replaceChildren(...shown.map(row));
  const more = $(`${id}-more`);
  more.hidden = rows.length <= FEW;
  more.setAttribute("aria-expanded", open[id]);
  more.textContent = open[id] ? "Show fewer" : `Show ${rows.length - FEW} more`;
}
const state = (word) => make("span", `state ${MOODS[word] || ""}`, word);
const reason = (words) => (words ? make("p", "reason", words) : null);
function counts(id, counted) {
  text(id, Object.entries(counted).filter(([, n]) => n).map(([word, n]) => `${n} ${word}`).join(" · "));
}
function modelRow(m) {
  const name = make("span", "name", m.name, make("span", "quiet", ` ${m.version}`));
  const part = m.bytes_total && m.state !== "published" ? `${size(m.bytes_done)} of ${size(m.bytes_total)}` : size(m.bytes_total);
  return make("li", "", make("div", "line", name, m.bytes_total ? make("span", "facts", part) : null, state(m.state)), reason(m.reason));
}
function uploadRow(u) {
  const facts = make("span", "facts", size(u.bytes), " · ", shapeWords(u.shape), when(u.updated_at));
  return make("li", "", make("div", "line", make("span", "name", u.path), facts, state(u.state)), reason(u.reason));
}
function shapeWords(shape) {
  if (!shape || !shape.kind) return "";
  const findings = shape.findings_total ? `, ${many(shape.findings_total, "finding")}` : "";
  return `${shape.kind === "other" ? "no known shape" : shape.kind}, ${many(shape.examples, "example")}${findings} · `;
}
function eventRow(e) {
  const subject = e.kind === "problem" ? `${e.subject}: problem` : e.subject;
  return make("li", "", when(e.at), state(e.state), make("div", "told", make("span", "name", subject), reason(e.reason)));
}

// The chart: 360 points of ten seconds, the newest at the right

let cursor = null;
function showChart() {
  const { up, down } = seen.throughput, most = Math.max(...up, ...down, 0);
  const top = niceAbove(most);
  for (const [name, rates] of [["up", up], ["down", down]]) {
    const from = 360 - rates.length;
    const points = rates.map((value, n) => `${from + n + 0.5} ${(99.5 - (98 * value) / top).toFixed(1)}`);
    const moved = rates.some((value) => value);
    $(`line-${name}`).setAttribute("d", moved ? `M${points.join("L")}` : "");
    $(`area-${name}`).setAttribute("d", moved ? `M${from + 0.5} 99.5L${points.join("L")}L360 99.5Z` : "");
    text(`now-${name}`, rate(rates.at(-1) || 0));
  }
  text("scale", most ? rate(top) : "");
  $("still").hidden = most > 0;
  text("chart-words", most
    ? `Now ${rate(down.at(-1) || 0)} down and ${rate(up.at(-1) || 0)} up. Peak ${rate(Math.max(...down, 0))} down and ${rate(Math.max(...up, 0))} up. Arrow keys read single moments.`
    : "No transfers.");
  showCursor();
}
function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 3, 5, 10].map((step) => step * power).find((step) => step >= value);
}
function showCursor() {
  $("cursor").setAttribute("d", cursor === null ? "" : `M${cursor + 0.5} 0V100`);
  if (cursor === null || !seen.throughput) return text("readout", "");
  const at = (rates) => rates[cursor - 360 + rates.length] || 0;
  const { up, down, seconds } = seen.throughput;
  text("readout", `${span((360 - cursor) * seconds)} ago: ↓ ${rate(at(down))} ↑ ${rate(at(up))}`);
}
function listenToChart() {
  const chart = $("chart");
  const move = (to) => { cursor = to === null ? null : Math.min(359, Math.max(0, to)); showCursor(); };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    move(Math.floor((360 * (event.clientX - box.left)) / box.width));
  });
  chart.addEventListener("pointerleave", () => move(null));
  chart.addEventListener("blur", () => move(null));
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -6, ArrowRight: 6, Home: -360, End: 360 }[event.key];
    if (event.key === "Escape") move(null);
    if (step === undefined) return;
    event.preventDefault();
    move((cursor === null ? 360 : cursor) + step);
  });
}

// Everything

const SHOW = {
  status() {
    if (version !== null && version !== seen.status.version) return location.reload();
    version = seen.status.version;
    showProblems();
    showTiles();
    showTransfers();
    counts("models-counts", seen.status.mirror.counts);
    counts("uploads-counts", seen.status.drop.counts);
  },
  models() { showList("models", seen.models, modelRow); },
  uploads() { showList("uploads", seen.uploads, uploadRow); },
  events() { showList("events", seen.events, eventRow); },
  throughput() { showChart(); },
  fault() {},
};
function listen() {
  source = new EventSource("api/events");
  for (const part of Object.keys(SHOW)) {
    source.addEventListener(part, (event) => {
      heard();
      seen[part] = JSON.parse(event.data);
      SHOW[part]();
      showVerdict();
    });
  }
  source.onopen = heard;
  source.onerror = () => {
    lost = true;
    showVerdict();
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS); // the answer was not a stream
  };
}
function heard() {
  heardAt = Date.now();
  lost = false;
}
for (const id of Object.keys(open)) {
  $(`${id}-more`).addEventListener("click", () => { open[id] = !open[id]; SHOW[id](); });
}
setInterval(() => {
  for (const node of document.querySelectorAll("time")) tick(node);
  if (seen.status) { showTiles(); showProblems(); }
}, 10_000);
listenToChart();
showVerdict();
listen();
