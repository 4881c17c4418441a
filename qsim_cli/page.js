// Draws the charts of the page and sorts its tables. Expressions are interpreted, not compiled: the page allows no eval.
const COLORS = ["#3d8fdd", "#e8743b", "#2ca77b", "#b563c8", "#c9a227", "#e0587f", "#7d8797", "#17a2b8"];
const dark = matchMedia("(prefers-color-scheme: dark)");

function config() {
  const [ink, line] = dark.matches ? ["#c9d1dc", "#343b47"] : ["#3a4454", "#e3e7ec"];
  const words = { labelColor: ink, titleColor: ink, titleFontWeight: "normal" };
  return {
    background: "transparent", view: { stroke: line }, title: { color: ink }, range: { category: COLORS },
    axis: { ...words, gridColor: line, domainColor: line, tickColor: line },
    legend: { ...words, symbolBaseFillColor: ink, symbolBaseStrokeColor: ink },
  };
}

async function draw() {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const options = { config: config(), ast: true, renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };
  for (const [id, spec] of Object.entries(specs)) {
    await vegaEmbed(document.getElementById(id), spec, options);
  }
  document.body.dataset.drawn = Object.keys(specs).length;
}

function sorted(head) {
  const place = [...head.parentNode.children].indexOf(head), body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  const value = (row) => row.children[place].dataset.value ?? row.children[place].textContent;
  const number = (text) => (text === "" ? Infinity : Number(text));
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)], difference = number(x) - number(y);
    return (Number.isNaN(difference) ? x.localeCompare(y) : difference) * (up ? 1 : -1);
  };
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...[...body.rows].sort(order));
}

for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => sorted(head));
dark.addEventListener("change", draw);
draw();
