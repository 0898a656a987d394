// The text on the page: final segments, whose words carry shades, and the partial one after them.
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

// Words with their places [from, to) in the text; none where one is not in it.
function placed(text, words) {
  let at = 0;
  const places = words.map((word) => {
    const from = text.indexOf(word.text, at);
    at = from + word.text.length;
    return { ...word, from, to: at };
  });
  return places.every((word) => word.from >= 0) ? places : [];
}

function wordElement(word) {
  const made = document.createElement("span");
  made.textContent = word.text;
  const facts = [];
  if (word.confidence !== null) {
    made.className = "word";
    made.style.setProperty("--doubt", String(1 - word.confidence));
    facts.push(`confidence ${word.confidence.toFixed(2)}`);
  }
  if (word.start !== null) facts.push(`${word.start.toFixed(2)} to ${word.end.toFixed(2)} s`);
  made.title = facts.join(", ");
  return made;
}

export class Transcript {
  // box: what scrolls; it shows the end of the text until the user scrolls up. finals, partial: elements in it.
  constructor(box, finals, partial) {
    Object.assign(this, { finals, partial });
    this.segments = []; // {text, start, end, words}
    let follows = true;
    box.addEventListener("scroll", () => { follows = box.scrollHeight - box.scrollTop - box.clientHeight < 40; });
    const watcher = new ResizeObserver(() => { if (follows) box.scrollTop = box.scrollHeight; });
    for (const element of [box, finals, partial]) watcher.observe(element);
  }

  clear() {
    this.segments = [];
    this.finals.replaceChildren();
    this.showPartial("", 0);
  }

  // stable: characters, as Python counts them, that will not change.
  showPartial(text, stable) {
    const characters = Array.from(text);
    this.partial.children[0].textContent = characters.slice(0, stable).join("");
    this.partial.children[1].textContent = characters.slice(stable).join("");
  }

  // A final message; its times count from `offset` seconds.
  add(final, offset) {
    const shift = (seconds) => (seconds === null ? null : seconds + offset);
    const words = placed(final.text, final.words).map((word) => ({ ...word, start: shift(word.start), end: shift(word.end) }));
    this.segments.push({ text: final.text, start: shift(final.start), end: shift(final.end), words });
    const line = document.createElement("p");
    line.dir = "auto";
    if (final.language) line.lang = final.language;
    line.dataset.time = clock(shift(final.start));
    let at = 0;
    for (const word of words) {
      line.append(final.text.slice(at, word.from), wordElement(word));
      at = word.to;
    }
    line.append(final.text.slice(at));
    this.showPartial("", 0);
    this.finals.append(line);
  }
}
