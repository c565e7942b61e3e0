// The auto-tagger on the page: its button, the line of the running job, and what came out, seen before it is written.
import { button, call, changed, dialog, fill, h, icon, number, plural, poll, state, toast } from "./core.js";
import { load, pictures, used } from "./pictures.js";
import { undoLast } from "./shell.js";
import { chooseTagger, lastConfig, lastWords } from "./tagger-choose.js";
import { filesMenu } from "./tagger-files.js";
import { confirmDiff } from "./words-diff.js";

const ENDED = ["done", "stopped", "failed", "interrupted"];
export const MODES = {
  empty: ["Only pictures without a caption", "What is written already stays as it is."],
  append: ["Add behind what is there", "Your words keep their order; new ones follow."],
  union: ["Merge, in the tagger's order", "The tagger's words first, then those of yours it did not see."],
  replace: ["Start afresh", "Captions are replaced. Undo brings them back."],
};
const SLIDERS = "M2.5 4.5h6M12 4.5h1.5M2.5 11.5H4M7.5 11.5h6M10 3v3M6 10v3";
const sliders = () => h("svg.ls-icon", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" }, h("path", { d: SLIDERS }));

/**
 * The tagger for a toolbar: {node, line, open(), run(), draw(), busy}. `node` holds the buttons, `line` goes below the
 * toolbar. `scope()` says which pictures are {shown: ids, selected: ids}. `open()` shows what can be chosen, `run()`
 * does what a click on Auto-tag does: with every caption empty it starts at once. Call draw() when pictures changed.
 * When captions were written, the pictures are loaded anew (ls:pictures) and ls:changed is sent.
 */
export function taggerPanel({ scope }) {
  let job = null, trigger = "", project = "", asking = false, sending = false;
  const isBare = (image) => !image.prose && (!image.caption || image.caption.toLowerCase() === trigger.toLowerCase());
  const node = h("span.ls-tagger"), line = h("div.ls-tagger-line", { "aria-live": "polite" });
  const files = filesMenu();
  const here = h("div"), there = files.line;
  fill(line, here, there);
  const all = () => pictures.all.filter(used);
  const running = () => Boolean(job) && !ENDED.includes(job.state);
  const mode = () => localStorage.getItem(`lora-studio-${state.project}-tag-mode`) || "append";
  const keepMode = (name) => localStorage.setItem(`lora-studio-${state.project}-tag-mode`, name);

  async function start(config, ids, words = "", options = {}) {
    await call("tagger.start", { project: state.project, config, ids, words }, options);
    await ask();
    changed();
  }
  const open = () => chooseTagger({ scope: scope(), mode: mode(), start, modes: MODES, keep: keepMode });
  async function run() {
    if (!all().length || running()) return;
    if (all().every(isBare)) return start(lastConfig(), null, lastWords());
    return open();
  }

  /** The running job, then what it found until that is written or left. */
  async function ask() {
    if (!state.project || asking) return;
    asking = true;
    const asked = state.project;
    try {
      const found = await call("tagger.state", { project: asked }, { quiet: true });
      if (asked !== state.project) return;
      project = asked;
      ({ job, trigger } = found);
      if (waits() && all().length && all().every(isBare) && job.tagged) await apply("append", null);
      draw();
    } finally { asking = false; }
  }
  const waits = () => Boolean(job) && ENDED.includes(job.state) && !job.applied && !sending;

  async function apply(how, digest) {
    sending = true;
    try {
      const answer = await call("tagger.apply", { project: state.project, mode: how, digest });
      job = { ...job, applied: true };
      if (!answer.again && (digest === null || answer.skipped || answer.num_failed)) told(answer); // else the diff's own word says it
      await load(true);
      changed();
      return answer;
    } finally { sending = false; draw(); }
  }

  /** What became of each picture: written, left as it was, failed with its name. */
  function told({ written, skipped, failed, num_failed: bad }) {
    const rest = [skipped && `${plural(skipped, "picture")} left as ${skipped === 1 ? "it was" : "they were"}`, bad && `${plural(bad, "picture")} could not be tagged: ${failed.slice(0, 3).map((one) => one.file).join(", ")}${bad > 3 ? " …" : ""}`].filter(Boolean);
    toast(`${plural(written, "picture")} tagged`, { remedy: rest.join(". "), level: bad ? "warn" : "good", seconds: bad ? 12 : 0, action: { text: "Undo", run: undoLast } });
  }

  /** What it found as a diff; where that changes nothing there is nothing left to wait for. */
  async function look() {
    let found = null;
    const preview = async () => { found = await call("tagger.preview", { project: state.project, mode: mode() }); return found; };
    const answer = await confirmDiff({ title: "What the tagger found", preview, apply: (digest) => apply(mode(), digest) });
    if (!answer && found && !found.count) await leave();
  }
  const goOn = async () => { await call("tagger.resume", { project: state.project }); await ask(); };
  async function leave() {
    await call("tagger.discard", { project: state.project });
    await ask();
  }
  const failures = () => dialog("Could not be tagged", () => h("table.ls-table", null, h("thead", null, h("tr", null, h("th", null, "File"), h("th", null, "Why"))), h("tbody", null, job.failed.map((one) => h("tr", null, h("td", null, one.file), h("td", null, one.reason))))), { wide: true });

  /** Another page of this project may have set the tagger to work. */
  const startedElsewhere = () => ((state.overview && state.overview.jobs) || []).some((one) => one.project === state.project && one.id.startsWith("tag-"));

  // ---- drawing --------------------------------------------------------------------------------------------------------

  function drawButtons() {
    const bare = all().filter(isBare).length;
    const text = bare && bare < all().length ? `Auto-tag ${number(bare)} left` : "Auto-tag";
    const key = JSON.stringify([text, bare > 0, !all().length || running()]);
    if (node.dataset.key === key) return;
    node.dataset.key = key;
    fill(node, button(text, run, { kind: bare ? "primary" : "", disabled: !all().length || running(), id: "ls-auto-tag" }),
      button(sliders(), open, { kind: "quiet", disabled: !all().length || running(), id: "ls-tagger-open", title: "Choose the tagger and its settings", label: "Choose the tagger" }), files.node);
  }

  function drawLine() {
    const key = JSON.stringify([job, sending, mode()]);
    if (here.dataset.key === key) return;
    here.dataset.key = key;
    fill(here, job && current());
  }
  function current() {
    if (!ENDED.includes(job.state)) {
      const count = job.total ? [h("b", null, number(job.done)), ` of ${number(job.total)}`, job.rate ? ` · ${job.rate.toFixed(job.rate < 10 ? 1 : 0)} a second` : ""] : "";
      return h("section.ls-running.flat", { id: "ls-tagger-running" }, h("span.ls-ellipsis", null, job.waits ? "Waiting for another job to end" : job.state === "stopping" ? "Stopping; what is done is kept" : job.text || "Starting the tagger"),
        h("span.ls-bar.grow" + (job.total ? "" : ".endless"), null, h("span", { style: `width:${job.total ? (100 * job.done) / job.total : 0}%` })), h("span.ls-muted", null, count),
        button("Stop", () => call("job.command", { project, group: "jobs", job: job.id, word: "stop" }), { kind: "quiet", icon: "stop", id: "ls-tagger-stop" }));
    }
    if (job.applied || sending) return null;
    const ended = job.state === "failed" || job.state === "interrupted";
    const rest = job.state !== "done" && job.left > 0 && button("Go on", goOn, { kind: job.tagged ? "quiet" : "", icon: "play", id: "ls-tagger-on", title: "What is tagged is not tagged again" });
    const failed = job.num_failed > 0 && h("button.ls-link", { type: "button", id: "ls-tagger-failures", onclick: failures }, `${number(job.num_failed)} failed`);
    if (!job.tagged) {
      const why = ended ? [h("b", null, "The tagger ended early. "), job.error, " ", h("span.ls-muted", null, job.remedy === "Resume it." ? "" : job.remedy)] : job.state === "stopped" ? "The tagger was stopped before the first picture was done." : [h("b", null, "No picture could be tagged. "), failed];
      return h("section.ls-problem.flat", { id: "ls-tagger-failed" }, icon("warn"), h("div.ls-fill", null, why), rest, button("Close", leave, { kind: "quiet" }));
    }
    const select = h("select.ls-input.ls-how", { id: "ls-tagger-mode", "aria-label": "How to write it", onchange: () => keepMode(select.value) }, Object.entries(MODES).map(([name, [title]]) => h("option", { value: name }, title)));
    select.value = mode();
    return h("section.ls-found.flat" + (ended ? ".warn" : ""), { id: "ls-tagger-found" }, icon(ended ? "warn" : "check"),
      h("span.ls-fill", null, h("b", null, `${plural(job.tagged, "picture")} looked at`), job.state === "stopped" ? `, then stopped` : ended ? `, then it ended early: ${job.error}` : "", ". Nothing is written yet. ", failed),
      rest, select, button("Look and apply", look, { kind: "primary", id: "ls-tagger-look" }), button("Leave it", leave, { kind: "quiet", id: "ls-tagger-leave" }));
  }

  function draw() {
    if (project !== state.project) { job = null; }
    drawButtons();
    drawLine();
    files.draw();
  }

  window.addEventListener("ls:pictures", draw);
  window.addEventListener("ls:overview", () => { if (state.step === "tagging" && !running() && startedElsewhere()) ask().catch(() => {}); });
  window.addEventListener("ls:go", () => { draw(); if (state.step === "tagging" && project !== state.project) ask().catch(() => {}); });
  poll(node, 1, async () => { if (project !== state.project || running()) await ask(); });
  draw();
  return { node, line, open, run, draw, get busy() { return running(); } };
}
