// The most frequent substitutions, deletions and insertions of the rows shown.
const MOST_FREQUENT = 12;
const KINDS = [["s", "Substituted", ["reference", "hypothesis"]], ["d", "Deleted", ["reference"]], ["i", "Inserted", ["hypothesis"]]];

// The `count` most frequent errors of each kind: {s, d, i} of [reference, hypothesis, times], most first.
function frequentErrors(rows, system, count) {
  const counts = { s: new Map(), d: new Map(), i: new Map() };
  for (const row of rows) {
    for (const [op, ref, hyp] of errorPairs(row, system)) {
      const key = ref + " " + hyp; // no word holds a space
      counts[op].set(key, (counts[op].get(key) || 0) + 1);
    }
  }
  const top = {};
  for (const op of Object.keys(counts)) {
    const sorted = Array.from(counts[op]).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    top[op] = sorted.slice(0, count).map(([key, times]) => [...key.split(" "), times]);
  }
  return top;
}

function frequentTable(op, title, head, rows) {
  const box = element("div");
  box.append(element("b", "", title));
  const table = element("table");
  const line = table.createTHead().insertRow();
  for (const name of [...head, "times"]) line.append(element("th", name === "times" ? "" : "left", name));
  const body = table.createTBody();
  for (const [ref, hyp, times] of rows) {
    const cells = body.insertRow();
    for (const name of head) {
      const button = element("button", "pick");
      button.type = "button";
      button.append(element("bdi", "", name === "reference" ? ref : hyp));
      button.dataset.pair = JSON.stringify([op, ref, hyp]);
      const cell = element("td", "left");
      cell.append(button);
      cells.append(cell);
    }
    cells.append(element("td", "", String(times)));
  }
  box.append(table);
  return box;
}

function showFrequent(rows, system) {
  const top = frequentErrors(rows, system, MOST_FREQUENT);
  const tables = KINDS.filter(([op]) => top[op].length).map(([op, title, head]) => frequentTable(op, title, head, top[op]));
  document.getElementById("pairs").replaceChildren(...(tables.length ? tables : [element("p", "note", "No errors.")]));
}
