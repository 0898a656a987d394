// Controls, and the way from a source through a session to the text.
import { Latency } from "./latency.js";
import { KeyNeeded, listModels, Session } from "./server.js";
import { openFile, openMicrophone } from "./sources.js";
import { FORMATS } from "./subtitles.js";
import { decibels, Track } from "./track.js";
import { Transcript } from "./transcript.js";

const field = (name) => document.getElementById(name);
const transcript = new Transcript(field("text"), field("finals"), field("partial"));
const track = new Track(field("track"));
const formats = document.querySelectorAll("[data-format]");
let models = [];
let live = null; // {session, source, offset, seconds, latency, file}
let name = "transcript", kind = ""; // of the downloads; of the last source

const say = (text) => { field("status").textContent = text; };
const complain = (text) => { field("error").textContent = text; };

const busy = () => live !== null && (live.source === null || live.stopping);

function enable() {
  const idle = live === null && models.length > 0, focused = document.activeElement;
  for (const id of ["file", "model", "language", "clean"]) field(id).disabled = !idle;
  const isFile = live !== null && live.file;
  field("start").disabled = !models.length;
  field("start").setAttribute("aria-disabled", String(busy())); // a disabled button would lose the keyboard
  field("start").dataset.running = live ? "1" : "";
  field("start").textContent = live ? (isFile ? "Stop" : "Stop the microphone") : "Start the microphone";
  for (const button of formats) button.disabled = !transcript.segments.length;
  field("clear").disabled = live !== null || track.seconds === 0;
  field("hint").hidden = live !== null || transcript.segments.length > 0;
  if (focused.disabled) field("start").focus();
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

function languageName(code) {
  try { return new Intl.DisplayNames(undefined, { type: "language" }).of(code); } catch { return code; }
}

const chosenModel = () => models.find(({ id }) => id === field("model").value);

function showLanguages() {
  const { languages } = chosenModel();
  field("language").parentElement.hidden = languages.length === 0;
  options(field("language"), [["", "not given"], ...languages.map((code) => [code, languageName(code)])]);
}

async function begin() {
  complain("");
  try {
    models = await listModels(sessionStorage.getItem("key"));
    field("entry").hidden = true;
    options(field("model"), models.map(({ id }) => [id, id]));
    field("model").parentElement.hidden = models.length < 2;
    showLanguages();
  } catch (error) {
    failed(error);
  }
  enable();
}

function failed(error) {
  complain(error.message);
  if (!(error instanceof KeyNeeded)) return;
  sessionStorage.removeItem("key");
  models = [];
  field("entry").hidden = false;
  field("key").focus();
}

function clear() {
  transcript.clear();
  track.clear();
  field("latency").textContent = "";
  enable();
}

// Starts a session whose sound comes from make(handlers), which gives a source. The microphone goes on where it stopped.
async function start(file, make) {
  if (live || !models.length) return;
  complain("");
  if (file || kind !== "microphone") clear();
  kind = file ? "file" : "microphone";
  name = file ? file.name.replace(/\.[^.]*$/, "") : "transcript";
  const run = { file: Boolean(file), offset: track.seconds, seconds: 0, latency: new Latency(), began: 0, session: null, source: null, stopping: false };
  live = run;
  enable();
  say(file ? `Reading ${file.name}.` : "Waiting for the microphone.");
  const early = []; // samples of a source that is not returned yet
  const audio = (samples) => (run.session ? hear(run, samples) : early.push(samples));
  try {
    const source = await make({ audio, end: () => run.session?.end(), fail: complain, room: () => run.session.room() });
    const rate = source.rate;
    run.session = new Session(
      { model: field("model").value, language: field("language").value, rate, key: sessionStorage.getItem("key") },
      { event: (message) => handle(run, message), closed: (error) => finish(run, error) },
    );
    run.source = source;
    run.rate = rate;
    run.began = performance.now();
    track.run(true);
    enable();
    for (const samples of early) hear(run, samples);
    say("Waiting for the server.");
    source.play?.();
  } catch (error) {
    finish(run, error);
  }
}

function hear(run, samples) {
  if (live !== run) return;
  const level = decibels(samples), seconds = samples.length / run.rate;
  run.seconds += seconds;
  run.latency.recorded(run.seconds);
  field("level").value = level;
  track.addLevel(level, seconds);
  run.session.send(samples);
}

function stop() {
  live.stopping = true;
  say("Waiting for the last words.");
  live.source.stop();
  enable();
}

const HANDLERS = {
  ready: (run) => { if (!run.stopping) say(run.file ? "Recognising the file." : "Listening."); },
  speech_started: (run, { seconds }) => { run.latency.speechStarted(seconds); track.startSpeech(run.offset + seconds); },
  speech_ended: (run, { seconds }) => { run.latency.speechEnded(seconds); track.endSpeech(run.offset + seconds); },
  partial: (run, { text, stable }) => { run.latency.partial(); transcript.showPartial(text, stable); },
  final: (run, message) => {
    run.latency.final(message);
    transcript.add(message, run.offset);
    track.addFinal(run.offset + message.start, run.offset + message.end);
    if (transcript.segments.length === 1) enable();
  },
  ended: (run, { seconds }) => {
    const took = (performance.now() - run.began) / 1000;
    say(`${seconds.toFixed(1)} s of sound recognised${run.file ? ` in ${took.toFixed(1)} s` : ""}.`);
  },
};

function handle(run, message) {
  HANDLERS[message.type]?.(run, message);
  if (!run.file) field("latency").textContent = run.latency.text();
}

// After the last message, or an error, which may come while the source still runs.
function finish(run, error) {
  if (live !== run) return;
  live = null;
  run.source?.stop();
  field("level").value = -60;
  transcript.showPartial("", 0);
  track.run(false);
  if (error) { say(""); failed(error); }
  enable();
}

function recogniseFile(file) {
  if (file) start(file, (on) => openFile(file, chosenModel().sample_rate, on));
}

function download(format) {
  const address = URL.createObjectURL(new Blob([FORMATS[format](transcript.segments)], { type: "text/plain" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = `${name}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

field("start").addEventListener("click", () => {
  if (live === null) start(null, (on) => openMicrophone(field("clean").checked, on));
  else if (!busy()) stop();
});
field("file").addEventListener("change", ({ target }) => { recogniseFile(target.files[0]); target.value = ""; });
field("model").addEventListener("change", showLanguages);
field("clear").addEventListener("click", clear);
field("controls").addEventListener("submit", (event) => event.preventDefault());
field("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", field("key").value.trim());
  field("key").value = "";
  begin();
});
for (const button of formats) button.addEventListener("click", () => download(button.dataset.format));
for (const [type, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  addEventListener(type, (event) => { event.preventDefault(); field("text").classList.toggle("over", over && live === null); });
}
addEventListener("drop", (event) => recogniseFile(event.dataTransfer.files[0]));
begin();
