// The list of utterances. Only the chunks near the window have elements, so that length costs nothing.
const FIRST = 8, CHUNK = 20; // rows of the first chunk, which a filter waits for, and of the others
const ROW_HEIGHT = 92 + 26 * (facts.systems.length - 1); // pixels, until a chunk was measured
const PRINTED = 100; // rows on paper, rounded up to whole chunks

const list = document.getElementById("rows");
let shown = []; // rows in the order of the list
let current = -1; // the place in `shown` that has the keyboard
let watcher = null;

const percent = (rate) => (Number.isFinite(rate) ? (100 * rate).toFixed(1) : "∞") + " %";

function rowFacts(row) {
  const box = element("div", "facts");
  facts.systems.forEach((name, system) => {
    const result = facts.results[system];
    const prefix = facts.systems.length > 1 ? name + " " : "";
    const cer = result.cer[row] === 0 ? 0 : result.cer[row] / facts.characters[row];
    box.append(element("b", "", prefix + "WER " + percent(rateOf(row, system))));
    box.append(element("span", "", `${result.sub[row]} sub ${result.del[row]} del ${result.ins[row]} ins, CER ${percent(cer)}`));
  });
  const words = [facts.languages[facts.language[row]][1]];
  if (facts.speaker[row] >= 0) words.push("speaker " + facts.speakers[facts.speaker[row]]);
  if (facts.seconds[row] > 0) words.push(facts.seconds[row].toFixed(1) + " s");
  if (facts.snr && facts.snr[row] !== null) words.push("SNR " + facts.snr[row].toFixed(0) + " dB");
  for (const text of words) { const made = element("bdi", "", text); box.append(made); }
  box.append(element("bdi", "id", facts.id[row]));
  if (audioKind(row)) {
    const button = element("button", "play", "▶ Play");
    button.type = "button";
    button.setAttribute("aria-label", "Play " + facts.id[row]);
    box.append(button);
  }
  return box;
}

function makeRow(place) {
  const made = element("article", "row");
  made.setAttribute("role", "listitem");
  made.setAttribute("aria-setsize", String(shown.length));
  made.setAttribute("aria-posinset", String(place + 1));
  made.tabIndex = place === Math.max(current, 0) ? 0 : -1;
  made.dataset.place = String(place);
  made.append(rowFacts(shown[place]), alignedWords(shown[place]));
  return made;
}

// "clip", "link", or "" where the row has no audio.
function audioKind(row) {
  return clipped.has(row) ? "clip" : facts.audio && facts.audio[row] ? "link" : "";
}

let clipData = null;
function audioSource(row) {
  if (audioKind(row) === "link") return facts.audio[row];
  clipData ??= JSON.parse(document.getElementById("clips").textContent);
  return `data:${facts.clipType};base64,${clipData[row]}`;
}

let playing = null;
function play(rowElement) {
  const row = shown[Number(rowElement.dataset.place)];
  const existing = rowElement.querySelector("audio");
  if (playing && playing !== existing) playing.pause();
  if (existing) { playing = existing; if (existing.paused) existing.play().catch(() => {}); else existing.pause(); return; }
  const button = rowElement.querySelector("button.play");
  if (!button) return;
  const audio = document.createElement("audio");
  audio.controls = true;
  audio.setAttribute("aria-label", facts.id[row]);
  audio.addEventListener("error", () => {
    audio.replaceWith(element("span", "", "the audio file is not where it was, or this browser cannot play it"));
  }, { once: true });
  audio.src = audioSource(row);
  button.replaceWith(audio);
  playing = audio;
  audio.play().catch(() => {}); // a failure raises "error" too
}

const endOf = (start) => Math.min(start === 0 ? FIRST : start + CHUNK, shown.length);

function fill(chunk) {
  if (!chunk || chunk.childElementCount) return;
  const start = Number(chunk.dataset.start);
  const made = [];
  for (let place = start; place < endOf(start); place++) made.push(makeRow(place));
  chunk.append(...made);
  chunk.style.height = "";
}

function empty(chunk) {
  const busy = chunk.contains(document.activeElement) || (playing && !playing.paused && chunk.contains(playing));
  if (!chunk.childElementCount || busy || chunk === list.firstChild) return; // the first rows are always at hand
  chunk.style.height = chunk.offsetHeight + "px";
  chunk.replaceChildren();
}

function showRows(rows) {
  shown = rows;
  current = -1;
  watcher?.disconnect();
  watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) fill(entry.target); else empty(entry.target);
  }, { rootMargin: "1000px 0px" });
  const chunks = [];
  for (let start = 0; start < rows.length; start = endOf(start)) {
    const chunk = element("div", "chunk");
    chunk.dataset.start = String(start);
    chunk.style.height = (endOf(start) - start) * ROW_HEIGHT + "px";
    chunks.push(chunk);
  }
  list.replaceChildren(...(chunks.length ? chunks : [element("p", "empty", "No utterance matches these filters.")]));
  fill(chunks[0]); // at once; the others when the window comes near
  for (const chunk of chunks) watcher.observe(chunk);
}

function focusRow(place) {
  if (place < 0 || place >= shown.length) return;
  list.querySelector(".current")?.classList.remove("current");
  const chunk = list.children[place < FIRST ? 0 : 1 + Math.floor((place - FIRST) / CHUNK)];
  fill(chunk);
  const made = chunk.children[place - Number(chunk.dataset.start)];
  current = place;
  made.classList.add("current");
  made.focus({ preventScroll: true });
  made.scrollIntoView({ block: "nearest" });
}

function forPrint() {
  watcher?.disconnect();
  for (const chunk of list.querySelectorAll(".chunk")) {
    if (Number(chunk.dataset.start) < PRINTED) fill(chunk); else chunk.replaceChildren();
  }
  const count = list.querySelectorAll(".row").length;
  document.getElementById("printed").textContent = `The first ${count} of ${shown.length} utterances. ${document.getElementById("count").textContent}`;
}
