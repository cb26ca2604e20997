"use strict";
// Tables: a click on a heading sorts by that column, another one the other way round; what is missing stays last.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset;
      const compare = (a, b) => {
        const [p, q] = [key(a), key(b)];
        const [absentP, absentQ] = [!("n" in p || "s" in p), !("n" in q || "s" in q)];
        if (absentP || absentQ) return absentP - absentQ;
        let order;
        if ("n" in p && "n" in q) order = Number(p.n) - Number(q.n);
        else if ("n" in p || "n" in q) order = "n" in p ? -1 : 1;
        else order = p.s.localeCompare(q.s, undefined, { numeric: true });
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

// Commands: a button copies one; from a file, too, where a browser may refuse the clipboard.
function copied(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.setAttribute("aria-hidden", "true");
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

for (const command of document.querySelectorAll(".command")) {
  const text = command.querySelector("pre").textContent;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${text}`);
  const said = document.createElement("span");
  said.className = "hidden";
  said.setAttribute("role", "status");
  command.append(button, said);
  button.addEventListener("click", async () => {
    const done = await navigator.clipboard?.writeText(text).then(() => true, () => false) || copied(text);
    button.textContent = said.textContent = done ? "Copied" : "Select it by hand";
    button.classList.toggle("done", done);
    button.focus();
    setTimeout(() => {
      button.textContent = "Copy";
      said.textContent = "";
      button.classList.remove("done");
    }, 2000);
  });
}

// What is folded is printed unfolded.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details.fold:not([open])")) {
    fold.open = true;
    addEventListener("afterprint", () => { fold.open = false; }, { once: true });
  }
});

// A link to a run opens its part.
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", open);
open();

// Charts. Colours: Okabe and Ito's (2008) palette, and lighter ones in the same order on dark ground.
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#c28e00", "#3fa0d8", "#6b6b6b"];
const DARK = ["#5ab4f0", "#f08a4b", "#35c497", "#d68fcb", "#f0e442", "#a9b8ff", "#b9bdc1"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "cross", "star"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;

function dressed(chart, width) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const palette = dark.matches ? DARK : LIGHT;
  const traces = chart.traces.map(({ tone, ...trace }) => {
    const own = tone === null ? colour("--muted") : palette[tone % palette.length];
    const made = { ...trace, marker: { size: 6, ...trace.marker, color: own } };
    for (const bars of ["error_x", "error_y"]) if (trace[bars]) made[bars] = { ...trace[bars], color: own };
    if (trace.type === "scatter") {
      const turn = tone === null ? 0 : Math.floor(tone / palette.length);
      made.line = { color: own, width: tone === null ? 1 : 2, dash: DASHES[turn % DASHES.length] };
      made.marker.symbol = SYMBOLS[(tone ?? 0) % SYMBOLS.length];
    }
    return made;
  });
  const axis = (given) => ({
    gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true,
    ...given, title: { ...given.title, standoff: 10 },
  });
  const { xaxis, yaxis, reversed, showlegend: shown, ...rest } = chart.layout;
  const named = traces.filter((trace) => trace.showlegend !== false);
  // As many rows as the names need in this width, so that they take nothing from the chart.
  const widest = 50 + 6.5 * Math.max(...named.map((trace) => trace.name.length));
  const rows = shown ? Math.ceil(named.length / Math.max(1, Math.floor((width - 20) / widest))) : 0;
  const below = 52 + (shown ? 19 * rows + 14 : 0);
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 300 + below,
    font: { color: colour("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 50, r: 15, t: 34, b: below }, hovermode: "closest", hoverlabel: { namelength: -1 },
    dragmode: touch ? false : "zoom", showlegend: shown,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--link") },
    legend: {
      orientation: "h", yref: "container", y: 0.01, yanchor: "bottom", x: 0, xanchor: "left",
      traceorder: reversed ? "reversed" : "normal", font: { size: 11 },
    },
    xaxis: axis(xaxis), yaxis: axis(yaxis), ...rest,
  };
  const buttons = [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
  return [traces, layout, { responsive: true, displaylogo: false, displayModeBar: !touch, modeBarButtons: buttons }];
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function draw() {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const library = document.createElement("script");
  library.textContent = await unpack(document.getElementById("plotly").textContent);
  document.head.append(library);
  const show = () => charts.map((chart, i) => {
    const place = document.getElementById(`chart-${i}`);
    return Plotly.react(place, ...dressed(chart, place.clientWidth));
  });
  await Promise.all(show());
  dark.addEventListener("change", show);
  document.documentElement.dataset.drawn = charts.length;
}

if (document.getElementById("charts")) {
  draw().catch((error) => {
    for (const plot of document.querySelectorAll(".plot")) plot.textContent = "This browser cannot draw the chart.";
    console.error(error);
  });
}
