// Testing: the grid of prompts by checkpoints and strengths beside the base, its scorecard, two pictures under a slider, the export.
import { button, bytes, call, changed, dialog, fill, h, icon, part, plural, poll, state, toast } from "./core.js";
import { remedyOf, viewer } from "./training.js";

const ENDED = ["done", "stopped", "failed", "interrupted"];
const percent = (measure) => (measure && measure.value !== null ? `${Math.round(100 * measure.value)} %` : "–");
const range = (measure) => (measure && measure.low !== null && measure.low !== undefined ? `${Math.round(100 * measure.low)} to ${Math.round(100 * measure.high)} %, ${plural(measure.count, "pair")}` : "");
export const shared = { checkpoints: [], exports: [], folder: "", recommended: null, warning: "" };
const label = (file) => { const found = shared.checkpoints.find((one) => one.file === file); return found ? found.name : (file || "base").split("/").pop(); };

/** Two pictures over each other with a slider between them. */
function compare(left, right) {
  return dialog("Compare", () => {
    const top = h("img", { src: right.src, alt: right.text }), line = h("span.ls-slider-line");
    const slider = h("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": "Position of the border", oninput: () => place() });
    const place = () => { top.style.clipPath = `inset(0 0 0 ${slider.value}%)`; line.style.left = `${slider.value}%`; };
    place();
    return h("div.ls-compare", null, h("div.ls-compare-stage", null, h("img", { src: left.src, alt: left.text }), top, line, slider), h("div.ls-compare-text", null, h("span", null, left.text), h("span", null, right.text)));
  }, { wide: true });
}

part("testing", (root) => {
  let project = "", tests = null, test = "", shown = null, asking = false, marked = null, drawn = "";
  const head = h("div.ls-toolbar"), card = h("div.ls-scorecard"), grid = h("div.ls-test-scroll"), body = h("div.ls-run.tests");
  fill(root, body);
  const source = (file) => `/media/${encodeURIComponent(project)}/tests/${encodeURIComponent(test)}/${encodeURIComponent(file.split("/").pop())}?v=1`;

  function drawEmpty() {
    const trained = shared.checkpoints.length;
    fill(body, tests === null ? [h("div.ls-skeleton"), h("div.ls-skeleton")] : h("div.ls-empty", null, icon("image", 34), h("h3", null, trained ? "Not tested yet" : "Nothing to test yet"),
      h("p", null, trained ? "A test draws the same prompts with each checkpoint and with the bare base, measures what was learned and what leaks into other pictures, and says which file to use." : "Train first: the saved LoRA files appear here.")));
  }

  function drawHead() {
    const alive = !ENDED.includes(shown.state);
    const choose = h("select.ls-input.ls-select", { "aria-label": "Test", onchange: () => { test = choose.value; shown = null; drawn = ""; ask().catch(() => {}); } }, tests.map((one) => h("option", { value: one.id, selected: one.id === test }, one.id === test ? one.id : `${one.id} · ${one.state}`)));
    fill(head, choose, alive ? [h("span.ls-spinner"), h("span.ls-muted", null, shown.state === "queued" ? "Waiting for another job to end" : shown.phase || "Starting"), h("span.ls-bar.grow" + (shown.total ? "" : ".endless"), null, h("span", { style: `width:${shown.total ? (100 * shown.done) / shown.total : 0}%` })), h("span.ls-muted", null, shown.total ? `${shown.done} of ${shown.total}` : ""),
      button("Stop", async () => { await call("testing.stop", { project, test }); await ask(); changed(); }, { icon: "stop" })] : [h("span.ls-muted", null, marked ? "Choose a second picture to compare with" : "Click a picture to enlarge it, Shift click two to compare"), h("div.ls-fill"),
      ["stopped", "failed", "interrupted"].includes(shown.state) && button("Go on", async () => { await call("testing.resume", { project, test }); await ask(); changed(); }, { icon: "play", kind: "primary" })]);
  }

  function drawCard() {
    const found = shown.scorecard;
    if (shown.error) { fill(card, h("div.ls-problem", null, h("b", null, shown.error), " ", shown.remedy)); return; }
    if (!found) { fill(card); return; }
    const choice = found.recommendation;
    const best = (variant) => choice && variant.checkpoint === choice.checkpoint && variant.strength === choice.strength;
    fill(card, h("div.ls-panel.ls-advice", null, h("b.ls-headline", null, found.headline), remedyOf(found), choice && choice.reasons.map((reason) => h("div.ls-note.good", null, h("span", null, reason))),
      found.findings.filter((finding) => finding.text !== found.headline).map((finding) => h("div", null, h(`div.ls-note.${finding.level}`, null, h("span", null, finding.text)), finding.remedy && h("div.ls-muted.ls-remedy", null, finding.remedy)))),
    h("div.ls-panel", null, h("table.ls-table.ls-scores", null, h("thead", null, h("tr", null, ["Checkpoint", "Strength", "Learned", "Bleed", "Score"].map((text) => h("th", null, text)))),
      h("tbody", null, found.variants.map((variant) => h("tr" + (best(variant) ? ".best" : ""), null, h("td", { title: variant.checkpoint }, label(variant.checkpoint), best(variant) && h("span.ls-badge.good", null, "use this")), h("td", null, String(variant.strength)),
        [variant.learned, variant.bleed, variant.score].map((measure, index) => h("td", { title: range(measure) }, h("span.ls-score", null, h("span.ls-bar" + (index === 1 ? ".warn" : ".good"), null, h("span", { style: `width:${Math.max(0, Math.min(100, 100 * ((measure && measure.value) || 0)))}%` })), percent(measure))))))))));
  }

  function drawGrid() {
    const key = JSON.stringify([project, test, shown.cells, marked]);
    if (key === drawn) return;
    drawn = key;
    const all = [];
    const choice = shown.scorecard && shown.scorecard.recommendation;
    const cell = (file, row, column) => {
      if (!file) return h("div.ls-test-cell.waiting", { "aria-label": "not made yet" });
      const text = `${shown.columns[column].label}${shown.columns[column].checkpoint ? ` × ${shown.columns[column].strength}` : ""} · ${shown.rows[row].prompt} · seed ${shown.rows[row].seed}`;
      const place = all.push({ src: source(file), text }) - 1;
      return h("button.ls-test-cell" + (marked && marked.src === all[place].src ? ".marked" : ""), { type: "button", title: text, "aria-label": text, onclick: (event) => {
        if (!event.shiftKey && !marked) { viewer(all, place); return; }
        if (!marked) { marked = all[place]; drawHead(); drawGrid(); return; }
        const first = marked; marked = null; drawHead(); drawGrid();
        if (first.src !== all[place].src) compare(first, all[place]);
      } }, h("img", { src: all[place].src, alt: "", loading: "lazy" }));
    };
    fill(grid, h("div.ls-test-grid", { style: `grid-template-columns: 170px repeat(${shown.columns.length}, minmax(84px, 132px))` },
      h("div.ls-test-corner"), shown.columns.map((column) => h("div.ls-test-column" + (choice && column.checkpoint === choice.checkpoint && column.strength === choice.strength ? ".best" : ""), null, h("b", null, column.label), h("span", null, column.checkpoint ? `strength ${column.strength}` : "no LoRA"))),
      shown.rows.map((row, index) => [h("div.ls-test-row", null, h(`span.ls-badge.${row.role === "learn" ? "accent" : "plain"}`, null, row.role === "learn" ? "should show it" : "must not change"), h("span.ls-test-prompt", { title: row.prompt }, row.prompt), h("span.ls-faint", null, `seed ${row.seed}`)), shown.cells[index].map((file, column) => cell(file, index, column))])));
  }

  function draw() {
    if (!shown || !tests || !tests.length) { drawEmpty(); return; }
    if (!body.contains(head)) fill(body, head, h("div.ls-test-body", null, card, grid));
    drawHead(); drawCard(); drawGrid();
  }

  async function ask(list = true) {
    if (!state.project || asking) return;
    asking = true;
    try {
      if (project !== state.project) { project = state.project; tests = null; test = ""; shown = marked = null; drawn = ""; drawEmpty(); }
      const mine = project;
      if (list || !tests) {
        const found = await call("testing.tests", { project }, { quiet: true });
        if (mine !== state.project) return;
        const fresh = tests && found.tests.length > tests.length;
        tests = found.tests;
        Object.assign(shared, { checkpoints: found.checkpoints, exports: found.exports, folder: found.folder });
        if (!tests.some((one) => one.id === test) || fresh) { test = tests.length ? tests[0].id : ""; shown = null; drawn = ""; }
      }
      if (test) {
        const found = await call("testing.view", { project, test }, { quiet: true });
        if (mine !== state.project) return;
        const before = shown && shown.state;
        shown = found;
        shared.recommended = shown.scorecard ? shown.scorecard.recommendation : null;
        shared.warning = shown.scorecard && !shown.scorecard.recommendation ? `${test} recommends none: look at its pictures before you hand one out.` : "";
        if (before && before !== shown.state) changed();
      } else { shared.recommended = null; shared.warning = ""; }
      draw();
      window.dispatchEvent(new CustomEvent("ls:tests"));
    } finally { asking = false; }
  }

  poll(root, 1, async () => { if (state.step === "testing" && shown && !ENDED.includes(shown.state)) await ask(false); });
  window.addEventListener("ls:go", () => { if (state.step === "testing") ask().catch(() => {}); });
  window.addEventListener("ls:changed", () => { if (state.step === "testing") ask().catch(() => {}); });
  window.addEventListener("ls:next", (event) => { if (event.detail !== "testing") return; const go = document.getElementById(tests && tests.some((one) => one.state === "done") ? "ls-export-go" : "ls-start-test"); if (go) go.click(); });
  drawEmpty();
  ask().catch(() => {});
});

part("export", (root) => {
  let chosen = "", format = "kohya";
  function draw() {
    if (!shared.checkpoints.length) { fill(root); return; }
    const recommended = shared.recommended && shared.recommended.checkpoint;
    if (!shared.checkpoints.some((one) => one.file === chosen)) chosen = "";
    const value = chosen || recommended || shared.checkpoints[shared.checkpoints.length - 1].file;
    const choose = h("select.ls-input.ls-select", { "aria-label": "Checkpoint to export", onchange: () => { chosen = choose.value; } }, [...shared.checkpoints].reverse().map((one) => h("option", { value: one.file, selected: one.file === value }, `${one.name}${one.file === recommended ? " (recommended)" : ""}`)));
    const kinds = h("div.ls-segments", { role: "group", "aria-label": "Format" }, [["kohya", "For ComfyUI, A1111, Forge, Invoke and diffusers"], ["diffusers", "PEFT layout"]].map(([name, text]) => h("button.ls-segment" + (name === format ? ".current" : ""), { type: "button", title: text, "aria-pressed": String(name === format), onclick: () => { format = name; draw(); } }, name)));
    fill(root, h("section.ls-export", null, h("h2", null, "Export"), choose, shared.warning && h("div.ls-note.warn", null, h("span", null, shared.warning)), h("div.ls-inline", null, kinds, button("Export", async () => {
      const made = await call("testing.export", { project: state.project, checkpoint: choose.value, format });
      toast(`${made.name} is ready`, { remedy: made.path, seconds: 8 });
      changed();
    }, { kind: "primary", icon: "save", id: "ls-export-go" })),
    shared.exports.length > 0 && h("div.ls-exports", null, shared.exports.map((one) => h("a.ls-download", { href: `/media/${encodeURIComponent(state.project)}/exports/${encodeURIComponent(one.name)}`, download: one.name }, icon("save", 14), h("span.ls-ellipsis", null, one.name), h("span.ls-faint", null, bytes(one.size))))),
    shared.exports.length > 0 && h("p.ls-muted.ls-path", { title: shared.folder }, `In ${shared.folder}`)));
  }
  window.addEventListener("ls:tests", draw);
  draw();
});
