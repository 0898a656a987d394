// Words in columns, reference above hypotheses, and the characters that differ inside a substituted word.

const segmenter = typeof Intl !== "undefined" && Intl.Segmenter ? new Intl.Segmenter(undefined, { granularity: "grapheme" }) : null;
// Viramas that join consonants. Some versions of Unicode end a cluster after them, which would cut a conjunct.
const JOINS = /[\u094D\u09CD\u0A4D\u0ACD\u0B4D\u0C4D\u0CCD\u0D4D]\u200D?$/u;

// Grapheme clusters of a word, conjuncts whole: what a reader sees as one character.
function clusters(word) {
  const parts = segmenter ? Array.from(segmenter.segment(word), (part) => part.segment) : word.match(/\P{M}[\p{M}\u200C\u200D]*|\p{M}+/gu) || [];
  const joined = [];
  for (const part of parts) {
    if (joined.length && JOINS.test(joined[joined.length - 1]) && /^\p{L}/u.test(part)) joined[joined.length - 1] += part;
    else joined.push(part);
  }
  return joined;
}

// For two lists, which entries differ in an alignment with the fewest edits: [booleans of a, of b].
function differing(a, b) {
  const width = b.length + 1;
  const cost = new Uint16Array((a.length + 1) * width);
  for (let j = 0; j <= b.length; j++) cost[j] = j;
  for (let i = 1; i <= a.length; i++) {
    cost[i * width] = i;
    for (let j = 1; j <= b.length; j++) {
      const change = cost[(i - 1) * width + j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      cost[i * width + j] = Math.min(change, cost[(i - 1) * width + j] + 1, cost[i * width + j - 1] + 1);
    }
  }
  const inA = a.map(() => true), inB = b.map(() => true);
  let i = a.length, j = b.length;
  while (i > 0 && j > 0) {
    const here = cost[i * width + j];
    if (a[i - 1] === b[j - 1] && here === cost[(i - 1) * width + j - 1]) { inA[--i] = inB[--j] = false; }
    else if (here === cost[(i - 1) * width + j - 1] + 1) { i--; j--; }
    else if (here === cost[(i - 1) * width + j] + 1) i--;
    else j--;
  }
  return [inA, inB];
}

const LONGEST_WORD = 200; // characters of a word whose characters are compared

function element(tag, style, text) {
  const made = document.createElement(tag);
  if (style) made.className = style;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A word whose differing clusters are marked. Neighbours share a mark: letters stay joined.
function marked(cell, parts, differs) {
  for (let i = 0; i < parts.length;) {
    let end = i;
    while (end < parts.length && differs[end] === differs[i]) end++;
    const text = parts.slice(i, end).join("");
    cell.append(differs[i] ? element("mark", "", text) : text);
    i = end;
  }
}

function substituted(refCell, hypCell, ref, hyp) {
  if (ref.length > LONGEST_WORD || hyp.length > LONGEST_WORD) {
    if (refCell) refCell.textContent = ref;
    hypCell.textContent = hyp;
    return;
  }
  const a = clusters(ref), b = clusters(hyp);
  const [inA, inB] = differing(a, b);
  // Two other words share a letter or two by chance: those are marked whole.
  if (3 * inA.filter((x) => !x).length < Math.max(a.length, b.length)) { inA.fill(true); inB.fill(true); }
  if (refCell) marked(refCell, a, inA);
  marked(hypCell, b, inB);
}

// By place in the reference: the words inserted before it, and the pair at it. The last place has no pair.
function slots(row, system) {
  const places = [{ inserted: [], pair: null }];
  for (const pair of pairsOf(row, system)) {
    if (pair[0] === "i") { places[places.length - 1].inserted.push(pair); continue; }
    places[places.length - 1].pair = pair;
    places.push({ inserted: [], pair: null });
  }
  return places;
}

const STYLES = { "=": "hyp", s: "hyp sub", d: "hyp gap", i: "hyp ins" };

function hypCell(row, system, pair, refCell) {
  const [op, ref, hyp, place] = pair;
  const cell = element("span", STYLES[op]);
  if (op === "d") { cell.textContent = "–"; cell.title = "deleted: " + ref; return cell; }
  if (op === "s") { substituted(refCell, cell, ref, hyp); cell.title = ref + " → " + hyp; }
  else cell.textContent = hyp;
  const confidence = confidenceOf(row, system, place);
  if (confidence !== null) {
    cell.classList.add("shaded");
    cell.style.setProperty("--doubt", (1 - confidence).toFixed(2));
    cell.title = (cell.title ? cell.title + ", " : "") + "confidence " + confidence.toFixed(2);
  }
  return cell;
}

function column(cells) {
  const made = element("span", "col");
  made.append(...cells);
  return made;
}

const gap = () => element("span", "hyp gap", "–");

// The aligned lines of a row, all systems.
function alignedWords(row) {
  const box = element("div", "aligned");
  box.lang = facts.languages[facts.language[row]][0];
  box.dir = "auto";
  const bySystem = facts.systems.map((_, system) => slots(row, system));
  if (facts.systems.length > 1) {
    const names = column(["reference", ...facts.systems].map((name) => element("span", "", name)));
    names.classList.add("names");
    box.append(names);
  }
  for (let place = 0; place < bySystem[0].length; place++) {
    const most = Math.max(...bySystem.map((places) => places[place].inserted.length));
    for (let k = 0; k < most; k++) {
      const cells = bySystem.map((places, system) => {
        const pair = places[place].inserted[k];
        return pair ? hypCell(row, system, pair, null) : gap();
      });
      box.append(column([element("span", "ref gap", "–"), ...cells]));
    }
    const first = bySystem[0][place].pair;
    if (!first) continue;
    const ops = bySystem.map((places) => places[place].pair[0]);
    const refCell = element("span", "ref" + (ops.includes("d") ? " del" : ops.includes("s") ? " sub" : ""));
    const refMarker = ops.findIndex((op) => op === "s"); // the system whose difference is marked in the reference
    const cells = bySystem.map((places, system) => hypCell(row, system, places[place].pair, system === refMarker ? refCell : null));
    if (refMarker < 0) refCell.textContent = first[1];
    box.append(column([refCell, ...cells]));
  }
  if (box.childElementCount === 0 || bySystem[0].length === 1 && !box.querySelector(".ins")) box.append(element("span", "hyp", "(no words)"));
  return box;
}
