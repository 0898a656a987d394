// Controls, keys, and the first drawing.
const field = (name) => document.getElementById(name);

function option(value, text) {
  const made = element("option", "", text);
  made.value = value;
  return made;
}

let later = 0;
function refresh() {
  const rows = matching();
  showRows(rows);
  field("count").textContent = countText(rows);
  showChips();
  clearTimeout(later);
  later = setTimeout(() => showFrequent(rows, state.system), 0); // after the list is on the screen
}

function chip(text, remove) {
  const made = element("button", "", text + " ×");
  made.type = "button";
  made.setAttribute("aria-label", "Remove the filter " + text);
  made.addEventListener("click", () => { remove(); refresh(); });
  return made;
}

const UNITS = { seconds: "s", words: "words", snr: "dB SNR" };
function showChips() {
  const chips = Object.entries(state.ranges).map(([name, { low, high }]) =>
    chip(`${low}–${high} ${UNITS[name]}`, () => { delete state.ranges[name]; }));
  if (state.pair) {
    const [op, ref, hyp] = state.pair;
    const text = op === "s" ? `${ref} → ${hyp}` : op === "d" ? `deleted ${ref}` : `inserted ${hyp}`;
    chips.push(chip(text, () => { state.pair = null; }));
  }
  field("chips").replaceChildren(...chips);
}

function readControls() {
  for (const name of ["text", "language", "speaker", "kind", "order"]) state[name] = field(name).value;
  state.system = Number(field("system").value);
}

function writeControls() {
  for (const name of ["text", "language", "speaker", "kind", "order", "system"]) field(name).value = String(state[name]);
}

function clear() {
  state = { ...NOTHING, ranges: {} };
  writeControls();
  refresh();
}

function toList() {
  field("errors").scrollIntoView({ block: "start" });
}

function pick(target) {
  if (target.dataset.pair) {
    state.pair = JSON.parse(target.dataset.pair);
  } else if (target.dataset.range) {
    const { range, low, high, last: closed } = target.dataset;
    state.ranges[range] = { low: Number(low), high: Number(high), closed: closed === "1" };
    toList();
  } else {
    state[target.dataset.field] = target.dataset.value;
    writeControls();
    toList();
  }
  refresh();
}

function onKey(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape") { clear(); event.target.blur?.(); return; }
  const target = event.target.closest?.("svg .pick");
  if (target && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); pick(target); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { event.preventDefault(); field("text").focus(); }
  else if (event.key === "j") focusRow(current + 1);
  else if (event.key === "k") focusRow(current - 1);
  else if (event.key === "p" && current >= 0) play(list.querySelector(".current"));
}

function onClick(event) {
  const target = event.target.closest(".pick");
  if (target) { pick(target); return; }
  const row = event.target.closest(".row");
  if (!row) return;
  if (event.target.closest("button.play")) play(row);
}

// Prepare search and errors in pauses, so that the first search is as fast as the next.
function prepare(row) {
  const end = Math.min(ROWS, row + 500);
  for (; row < end; row++) {
    searchText(row);
    facts.systems.forEach((_, system) => errorPairs(row, system));
  }
  if (row < ROWS) setTimeout(() => prepare(row), 0);
  else document.documentElement.dataset.prepared = "1";
}

function start() {
  for (const [code, name] of facts.languages) field("language").append(option(code, `${name} (${code})`));
  for (const [value, [text]] of Object.entries(ERROR_KINDS)) field("kind").append(option(value, text));
  for (const [value, [text]] of Object.entries(ORDERS)) field("order").append(option(value, text));
  facts.systems.forEach((name, i) => field("system").append(option(String(i), name)));
  if (!facts.results.some((result) => result.confidence)) ["shading", "shade-note"].forEach((name) => field(name).remove());
  list.classList.add("shade");
  writeControls();
  refresh();
  // The choices of a long list of speakers are made when they are needed.
  field("speaker").addEventListener("focus", () => {
    if (!field("speakers").childElementCount) field("speakers").append(...facts.speakers.map((name) => option(name, name)));
  });
  const form = field("filters");
  form.addEventListener("input", (event) => {
    if (event.target.id === "shade") { list.classList.toggle("shade", event.target.checked); return; }
    readControls();
    refresh();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => { event.preventDefault(); clear(); });
  document.addEventListener("click", onClick);
  document.addEventListener("keydown", onKey);
  list.addEventListener("focusin", (event) => {
    const row = event.target.closest(".row");
    if (row && Number(row.dataset.place) !== current) {
      list.querySelector(".current")?.classList.remove("current");
      row.classList.add("current");
      current = Number(row.dataset.place);
    }
  });
  window.addEventListener("beforeprint", forPrint);
  window.addEventListener("afterprint", refresh);
  setTimeout(() => prepare(0), 0);
  document.documentElement.dataset.ready = performance.now().toFixed(1); // ms since navigation, for tests
}

start();
