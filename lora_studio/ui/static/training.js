// A run as it goes: tiles, loss, sample pictures over the epochs, the verdict in words. Everything is read from the run's folder,
// so a reload, a second window or a restart of the studio shows the same.
import { button, bytes, call, changed, duration, fill, h, icon, number, part, poll, state, toast } from "./core.js";
import { createChart } from "./chart.js";

const ENDED = ["done", "stopped", "failed", "interrupted"];
const WORDS = { queued: "waiting", running: "training", paused: "paused", stopping: "stopping", done: "finished", stopped: "stopped", failed: "failed", interrupted: "interrupted" };

/** The way out that belongs to a verdict's headline: that finding is not listed again below it. */
export function remedyOf(verdict) {
  const same = verdict.findings.find((finding) => finding.text === verdict.headline && finding.remedy);
  return same && h("div.ls-muted", null, same.remedy);
}

export function viewer(pictures, start) {
  let index = start;
  const node = h("dialog.ls-viewer.pixels", { "aria-label": "Picture" });
  const close = () => { node.close(); node.remove(); };
  const draw = () => fill(node, h("img", { src: pictures[index].src, alt: pictures[index].text }), h("div.ls-viewer-line", null, h("span", null, pictures[index].text), h("button.ls-close", { type: "button", "aria-label": "Close", onclick: close }, icon("close"))));
  node.addEventListener("click", close);
  node.addEventListener("cancel", close);
  node.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) { index = Math.min(pictures.length - 1, Math.max(0, index + move)); draw(); }
    if (event.key === "Enter" || event.key === " ") close();
  });
  document.body.append(node);
  draw();
  node.showModal();
}

part("training", (root) => {
  let project = "", runs = null, run = "", shown = null, merged = null, asking = false;
  const chart = createChart();
  const head = h("div.ls-toolbar.ls-run-head"), tiles = h("div.ls-tiles"), verdict = h("div.ls-verdict"), strip = h("div.ls-strip"), phase = h("span.ls-muted.ls-ellipsis.ls-phase"), legend = h("span.ls-legend"), body = h("div.ls-run");
  fill(root, body);

  const tile = (title, value, under) => h("div.ls-tile", null, h("div.ls-tile-title", null, title), h("div.ls-tile-value", null, value), under && h("div.ls-tile-under", null, under));

  function drawEmpty() {
    fill(body, runs === null ? [h("div.ls-skeleton"), h("div.ls-skeleton")] : h("div.ls-empty", null, icon("play", 34), h("h3", null, "Nothing trained yet"),
      h("p", null, "The settings on the right are recommended for your plan and pictures. Start, and watch here how it learns: the loss, sample pictures after each epoch, and what to make of them.")));
  }

  function drawHead() {
    const alive = !ENDED.includes(shown.state);
    const tell = (word, text) => async () => { await call("training.command", { project, run, word }); if (text) toast(text); await ask(); changed(); };
    const choose = h("select.ls-input.ls-select", { "aria-label": "Run", onchange: () => { run = choose.value; merged = null; shown = null; ask().catch(() => {}); } }, runs.map((one) => h("option", { value: one.id, selected: one.id === run }, one.id === run ? one.id : `${one.id} · ${WORDS[one.state] || one.state}`)));
    fill(head, choose, h(`span.ls-badge.${{ done: "good", failed: "bad", interrupted: "warn", stopped: "warn" }[shown.state] || "accent"}`, { id: "ls-run-state" }, WORDS[shown.state] || shown.state),
      h("div.ls-fill"),
      alive && shown.state !== "stopping" && [
        shown.state === "paused" ? button("Resume", tell("resume"), { icon: "play", kind: "primary" }) : button("Pause", tell("pause", "Pauses after this step"), { icon: "pause" }),
        button("Save", tell("save", "Saves after this step"), { icon: "save", title: "Write a LoRA file now" }), button("Sample", tell("sample", "Draws after this step"), { icon: "image", title: "Draw the sample prompts now" }),
        button("Stop", tell("stop", "Stops after this step and saves"), { icon: "stop", kind: "danger", id: "ls-stop-training" })],
      ["stopped", "failed", "interrupted"].includes(shown.state) && button("Resume", async () => { await call("training.resume", { project, run }); merged = null; await ask(); changed(); }, { icon: "play", kind: "primary", id: "ls-resume-training" }),
      shown.state === "done" && button("Test it", () => { document.getElementById("ls-step-testing").click(); }, { kind: "primary", icon: "right" }));
  }

  function drawTiles() {
    const rate = shown.seconds_per_step;
    const epochs = merged.epochs;
    const alive = !ENDED.includes(shown.state);
    fill(tiles, tile("Step", `${number(shown.step)} / ${number(shown.total)}`, h("span.ls-bar", null, h("span", { style: `width:${shown.total ? (100 * shown.step) / shown.total : 0}%` }))),
      tile("Epoch", shown.epoch ? number(shown.epoch) : "–", epochs ? `${epochs} saved` : "none saved yet"),
      tile("Speed", rate ? (rate < 1 ? `${(1 / rate).toFixed(1)} it/s` : `${rate.toFixed(1)} s/it`) : "–", rate ? `${(rate * 1000).toFixed(0)} ms a step` : ""),
      tile(alive ? "Time left" : "Loss", alive ? duration(shown.eta) : (chart.smoothed || 0).toFixed(4), alive ? (shown.eta ? "at this speed" : "") : "smoothed"),
      tile("Memory", alive ? bytes(shown.memory) : "–", alive ? "in use" : "released"));
  }

  function drawVerdict() {
    const found = shown.verdict;
    fill(verdict, shown.error && h("div.ls-problem", null, h("b", null, shown.error), " ", shown.remedy),
      h("div.ls-verdict-head", null, h(`span.ls-light.${found.level}`), h("b", null, found.headline)), remedyOf(found) && h("div.ls-remedy", null, remedyOf(found)),
      found.findings.filter((finding) => finding.text !== found.headline).map((finding) => h("div", null, h(`div.ls-note.${finding.level}`, null, h("span", null, finding.text)), finding.remedy && h("div.ls-muted.ls-remedy", null, finding.remedy))),
      merged.notes.slice(-4).map((note) => h(`div.ls-note.${note.level === "warning" ? "warn" : "info"}`, null, h("span", null, note.text))));
  }

  function drawStrip() {
    const groups = new Map();
    for (const sample of merged.samples) {
      if (!groups.has(sample.step)) groups.set(sample.step, []);
      groups.get(sample.step).push(sample);
    }
    const all = merged.samples.map((sample) => ({ src: source(sample), text: `${sample.epoch ? `epoch ${sample.epoch}, ` : ""}step ${sample.step}${sample.info && sample.info.prompt ? ` · ${sample.info.prompt}` : ""}` }));
    const key = `${project}/${run}/${all.length}`;
    if (strip.dataset.key === key) return;
    strip.dataset.key = key;
    let index = 0;
    fill(strip, h("div.ls-strip-head", null, h("h3", null, "Sample pictures"), h("span.ls-muted", null, all.length ? "the same prompts and seeds over time" : "they appear after the first epoch")),
      all.length > 0 && h("div.ls-strip-row", null, [...groups].map(([step, samples]) => h("div.ls-strip-column", null, samples.map((sample) => { const place = index++; return h("button.ls-shot", { type: "button", title: all[place].text, "aria-label": all[place].text, onclick: () => viewer(all, place) }, h("img", { src: all[place].src, alt: "" })); }), h("div.ls-faint", null, samples[0].epoch ? `epoch ${samples[0].epoch}` : step ? `step ${step}` : "before")))));
    const row = strip.querySelector(".ls-strip-row");
    if (row) row.scrollLeft = row.scrollWidth;
  }
  const source = (sample) => `/media/${encodeURIComponent(project)}/runs/${encodeURIComponent(run)}/samples/${encodeURIComponent(sample.path.split("/").pop())}?v=${sample.step}`;

  function draw() {
    if (!shown || !runs || !runs.length) { drawEmpty(); return; }
    if (!body.contains(head)) fill(body, head, tiles, h("div.ls-panel", null, h("div.ls-panel-head", null, h("h3", null, "Loss"), phase, legend), chart.node), verdict, strip);
    chart.set({ points: merged.points, validation: merged.validation, total: shown.total, best: shown.verdict.best_step });
    if (!head.contains(document.activeElement) || document.activeElement.tagName !== "SELECT") drawHead();
    phase.textContent = ENDED.includes(shown.state) || shown.step ? "" : shown.phase;
    fill(legend, h("i.accent"), "smoothed", h("i.faint"), "each step", merged.validation.length > 0 && [h("i.warn"), "validation, scale on the right"]);
    drawTiles(); drawVerdict(); drawStrip();
  }

  function merge(found) {
    if (!merged) merged = { points: [], validation: [], samples: [], checkpoints: [], notes: [], offset: 0 };
    const by = (key, old, fresh) => { const map = new Map(old.map((item) => [item[key], item])); for (const item of fresh) map.set(item[key], item); return [...map.values()]; };
    const last = merged.points.length ? merged.points[merged.points.length - 1][0] : -1;
    merged.points = found.points.length && found.points[0][0] <= last ? by(0, merged.points, found.points).sort((a, b) => a[0] - b[0]) : [...merged.points, ...found.points];
    merged.validation = by(0, merged.validation, found.validation).sort((a, b) => a[0] - b[0]);
    merged.samples = by("path", merged.samples, found.samples);
    merged.checkpoints = by("path", merged.checkpoints, found.checkpoints);
    merged.notes = [...merged.notes, ...found.notes];
    merged.offset = found.offset;
    merged.epochs = merged.checkpoints.length;
  }

  async function ask(listRuns = true) {
    if (!state.project || asking) return;
    asking = true;
    try {
      if (project !== state.project) { project = state.project; runs = null; run = ""; shown = merged = null; strip.dataset.key = ""; draw(); }
      const mine = project;
      if (listRuns || !runs) {
        const found = await call("training.runs", { project }, { quiet: true });
        if (mine !== state.project) return;
        const fresh = runs && found.length > runs.length;
        runs = found;
        if (!runs.some((one) => one.id === run) || fresh) { run = runs.length ? runs[0].id : ""; merged = shown = null; }
      }
      if (!run) { draw(); return; }
      const asked = run;
      const found = await call("training.view", { project, run, since: merged ? merged.offset : 0 }, { quiet: true });
      if (mine !== state.project || asked !== run) return;
      const before = shown && shown.state;
      merge(found);
      shown = found;
      if (before && before !== shown.state) changed();
      draw();
    } finally { asking = false; }
  }

  poll(root, 1, async () => { if (state.step === "training" && (!shown || !ENDED.includes(shown.state))) await ask(!shown); });
  window.addEventListener("ls:go", () => { if (state.step === "training") ask().catch(() => {}); });
  window.addEventListener("ls:changed", () => { if (state.step === "training") ask().catch(() => {}); });
  window.addEventListener("ls:next", (event) => { if (event.detail === "training") document.getElementById("ls-start-training").click(); });
  drawEmpty();
  ask().catch(() => {});
});
