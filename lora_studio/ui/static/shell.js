// The frame: sidebar with the projects and jobs, the six-step bar, the Next button, undo, the theme, help by "?".
import { STEPS, button, call, changed, confirm, dialog, edit, fill, go, h, icon, number, part, plural, poll, showing, state, toast, typing } from "./core.js";
import { allSent, takeOver } from "./pictures.js";

const KIND = { character: "Character", style: "Style", concept: "Concept" };
let search = "";
let draw = () => {};
let asked = 0;

export async function refresh() {
  const mine = ++asked;
  let found;
  try {
    found = await call("overview", { project: state.project }, { quiet: true });
  } catch (error) {
    if (state.project && error.message.startsWith("There is no project")) {
      toast(error.message, { remedy: "It may have been renamed or moved to the trash.", level: "bad" });
      go("", "conception");
      return;
    }
    throw error;
  }
  if (mine !== asked) return;
  const before = state.overview && state.overview.project;
  state.overview = found;
  const now = found.project;
  draw();
  window.dispatchEvent(new CustomEvent("ls:overview"));
  if (before && now && before.slug === now.slug && before.revision !== now.revision) window.dispatchEvent(new CustomEvent("ls:revision"));
}

// ---- theme ----------------------------------------------------------------------------------------------------------

function theme(choice) {
  const asked = new URLSearchParams(location.search).get("__theme");
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const wanted = choice || asked || localStorage.getItem("lora-studio-theme") || system;
  document.body.classList.toggle("dark", wanted === "dark");
  document.documentElement.style.colorScheme = wanted;
  if (choice) localStorage.setItem("lora-studio-theme", choice);
  window.dispatchEvent(new CustomEvent("ls:theme"));
}

// ---- sidebar --------------------------------------------------------------------------------------------------------

function avatar(project) {
  if (project.thumb) {
    return h("img.ls-avatar", { src: `/media/${encodeURIComponent(project.slug)}/${project.thumb.id}/thumb?v=${project.thumb.v}`, alt: "", loading: "lazy" });
  }
  const letters = project.name.split(/\s+/).map((word) => word[0] || "").join("").slice(0, 2).toUpperCase();
  const hue = [...project.slug].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
  return h("span.ls-avatar.letters", { style: `--hue:${hue}`, "aria-hidden": "true" }, letters);
}

function projectLine(project) {
  const current = project.slug === state.project;
  return h("button.ls-project" + (current ? ".current" : ""), {
    type: "button", title: project.name, "aria-current": current ? "true" : null,
    onclick: () => { if (!current) open(project.slug); },
  }, avatar(project), h("span.ls-project-text", null,
    h("span.ls-project-name", null, project.name),
    h("span.ls-project-facts", null, `${KIND[project.kind]} · ${project.pictures ? plural(project.pictures, "picture") : "no pictures"}`)),
  project.busy && h("span.ls-pulse", { title: "A job is running" }));
}

function jobLine(job) {
  const share = job.total ? Math.min(100, (100 * job.done) / job.total) : 0;
  const word = { queued: "waiting", paused: "paused", stopping: "stopping" }[job.state];
  return h("button.ls-job", { type: "button", title: `Show ${job.title}`, onclick: () => go(job.project, job.step) },
    h("span.ls-job-title", null, h("span", null, job.title), h("span", null, word || (job.total ? `${Math.floor(share)} %` : ""))),
    h("span.ls-bar" + (job.total ? "" : ".endless"), null, h("span", { style: `width:${share}%` })),
    h("span.ls-job-text", null, job.text || "Starting"));
}

async function open(slug) {
  const found = state.overview && state.overview.projects.find((project) => project.slug === slug);
  go(slug, found ? state.step : "conception");
  await refresh();
}

function sidebar(root) {
  const box = h("input.ls-search", { type: "search", placeholder: "Search projects", "aria-label": "Search projects", oninput: () => { search = box.value.toLowerCase(); lines(); } });
  const list = h("div.ls-projects", { role: "list", "aria-label": "Projects" });
  const jobs = h("div.ls-jobs", { "aria-live": "off" });
  const machine = h("div.ls-machine");
  const make = button("New project", () => go("", "conception"), { kind: "primary", icon: "plus", id: "ls-new" });
  fill(root,
    h("div.ls-logo", null, h("span.ls-mark", { "aria-hidden": "true" }), h("span.ls-logo-text", null, "LoRA Studio")),
    h("div.ls-search-box", null, icon("search", 14), box), list, make, h("div.ls-fill"), jobs, machine);
  let drawn = "";
  function lines() {
    const projects = state.overview ? state.overview.projects : null;
    if (!projects) { fill(list, [1, 2, 3].map(() => h("div.ls-skeleton.line"))); return; }
    const shown = projects.filter((project) => project.name.toLowerCase().includes(search));
    const key = JSON.stringify([shown, state.project]);
    if (key === drawn) return;
    drawn = key;
    fill(list, shown.map(projectLine));
    if (!shown.length) fill(list, h("div.ls-none", null, projects.length ? "No project of that name." : "No projects yet. Start with a sample on the right."));
    box.parentElement.hidden = projects.length < 2;
  }
  let toldLow = false;
  return () => {
    lines();
    make.disabled = false;
    const found = state.overview;
    if (!found) return;
    fill(jobs, found.jobs.length ? [h("div.ls-label", null, "Running"), found.jobs.map(jobLine)] : []);
    fill(machine, h("div", null, found.machine.device), h("div" + (found.machine.low ? ".bad" : ""), null, found.machine.disk));
    if (found.machine.low && !toldLow) { toldLow = true; toast("The disk is almost full.", { remedy: "Free some space before the next long job.", level: "bad" }); }
  };
}

// ---- step bar -------------------------------------------------------------------------------------------------------

function stepButton(step, index, current, open) {
  const mark = step.state === "done" ? icon("check", 13) : String(index + 1);
  return h(`button.ls-step.${step.state}` + (current ? ".current" : ""), {
    type: "button", role: "tab", id: `ls-step-${step.id}`, "aria-selected": String(current), tabindex: current ? "0" : "-1",
    "aria-label": `${index + 1} ${step.title}: ${step.text}`, disabled: !open && index > 0,
    onclick: () => go(state.project, step.id),
  }, h("span.ls-dot", null, h("span", null, mark)), h("span.ls-step-text", null, h("span.ls-step-title", null, step.title), h("span.ls-step-note", null, step.text)));
}

/** What to do now: the next step's action (done on the spot when its tab is open), or what is being waited for. */
function nextButton(found) {
  const next = found.find((step) => step.state === "next");
  const busy = found.find((step) => step.state === "busy");
  if (next && !(busy && found.indexOf(busy) < found.indexOf(next))) {
    const run = () => (state.step === next.id ? window.dispatchEvent(new CustomEvent("ls:next", { detail: next.id })) : go(state.project, next.id));
    return button([h("span", null, "Next: ", next.action), icon("right", 13)], run, { kind: "primary", id: "ls-next" });
  }
  if (busy) return button([h("span.ls-spinner"), h("span", null, `${busy.title}: ${busy.text}`)], () => go(state.project, busy.id), { id: "ls-next" });
  return h("span.ls-all-done", { id: "ls-next" }, icon("check", 14), "All six steps done");
}

const EMPTY = ["what it shall become", "collect pictures", "keep the best", "describe them", "let it learn", "see if it works"];
function emptySteps() {
  const titles = ["Conception", "Gathering", "Curation", "Tagging", "Training", "Testing"];
  return STEPS.map((id, index) => ({ id, title: titles[index], state: "open", text: EMPTY[index], action: "" }));
}

function steps(root) {
  const bar = h("div.ls-steps", { role: "tablist", "aria-label": "Steps" });
  const line = h("div.ls-line");
  fill(root, bar, line);
  bar.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move || !state.project) return;
    event.preventDefault();
    go(state.project, STEPS[(STEPS.indexOf(state.step) + move + 6) % 6]);
    document.getElementById(`ls-step-${state.step}`).focus();
  });
  let drawn = "";
  return () => {
    const project = state.overview && state.overview.project && state.overview.project.slug === state.project ? state.overview.project : null;
    const found = project ? project.steps : emptySteps();
    const key = JSON.stringify([found, state.step, state.project, project && project.name, project && project.undo]);
    if (key === drawn) return;
    drawn = key;
    const focused = bar.contains(document.activeElement) ? document.activeElement.id : "";
    fill(bar, found.map((step, index) => stepButton(step, index, step.id === state.step, Boolean(state.project))));
    if (focused && document.getElementById(focused)) document.getElementById(focused).focus();
    const undo = button(h("span.ls-undo-text", null, project && project.undo ? `Undo: ${project.undo}` : "Undo"), undoLast,
      { kind: "quiet", icon: "undo", disabled: !(project && project.undo), title: project && project.undo ? `Take back: ${project.undo} (Ctrl+Z)` : "Nothing to undo", id: "ls-undo" });
    fill(line,
      h("div.ls-title", null, project ? [h("h1", null, project.name), h("span.ls-chip", null, KIND[project.kind]), project.trigger && h("code.ls-trigger", { title: "The trigger word" }, project.trigger),
        h("button.ls-icon-button", { type: "button", title: "Project menu", "aria-label": "Project menu", onclick: () => menu(project) }, icon("more"))] : h("h1", null, "New project")),
      h("div.ls-fill"), project && undo,
      h("button.ls-icon-button", { type: "button", title: "Keyboard (?)", "aria-label": "Keyboard help", onclick: help }, icon("keys")),
      h("button.ls-icon-button", { type: "button", title: "Dark or light", "aria-label": "Dark or light", id: "ls-theme", onclick: () => theme(document.body.classList.contains("dark") ? "light" : "dark") }, icon("moon")),
      project && nextButton(found));
  };
}

async function replay(word) {
  const project = state.project, answer = await edit(word);
  takeOver(project, answer);
  window.dispatchEvent(new CustomEvent("ls:revision"));
  return answer;
}

export async function undoLast() {
  if (!state.project) return;
  await allSent(); // what was just done is what is taken back
  const { label } = await replay("undo");
  toast(label ? `Undone: ${label}` : "Nothing to undo", { action: label ? { text: "Redo", run: () => replay("redo") } : null });
}

export async function redoLast() {
  if (!state.project) return;
  await allSent();
  const { label } = await replay("redo");
  toast(label ? `Done again: ${label}` : "Nothing to do again");
}

async function menu(project) {
  await dialog(project.name, (close) => h("div", null,
    h("p.ls-muted", null, "Moving to the trash stops running jobs. The folder stays on disk under .trash in the projects folder."),
    h("div.ls-row.end", null, button("Move to the trash", async () => {
      close();
      if (!(await confirm("Move to the trash?", `${project.name} with its pictures, runs and exports.`, "Move to the trash"))) return;
      const { name, path } = await call("project.trash", { project: project.slug });
      go("", "conception");
      await refresh();
      toast(`${name} lies in the trash now.`, { remedy: path, seconds: 10 });
    }, { icon: "trash", kind: "danger" }), button("Close", () => close()))));
}

const HELP = [
  ["Everywhere", [["Ctrl Z, Ctrl Shift Z", "undo, redo"], ["Alt 1 … Alt 6", "go to a step"], ["?", "this help"]]],
  ["Pictures", [["← ↑ → ↓", "move"], ["Shift + arrow, Shift click", "select a range"], ["Ctrl click", "add to the selection"], ["Ctrl A", "select all"], ["Enter, Space", "enlarge"], ["Esc", "close, or select one"]]],
  ["Curation", [["K", "keep"], ["M", "maybe: set aside"], ["R", "reject"], ["N", "neither"], ["A", "do as suggested"], ["U, Shift U", "undo, redo"], ["C", "crop"], ["E", "crops, mask, what is trained"], ["Z", "enlarge; wheel or + zooms"], ["X", "compare two"], ["/", "to the filter"]]],
  ["Tagging", [["T", "add tags"], ["A", "add what the tagger suggests first"], ["1 … 9", "give or take a quick tag"], ["Q", "name the quick tags"], ["C", "to the tags: ← → go, Alt ← → move, Enter changes, Del removes"], ["W", "the caption as text"], ["D", "its sentences"], ["B", "change many captions"], ["Ctrl C, Ctrl V", "copy and paste tags"], ["L", "find a tag"], ["U, Shift U", "undo, redo"], ["/", "to the filter"]]],
  ["While adding tags", [["↑ ↓", "other picture (in the empty field)"], ["→", "add what is suggested"], ["Backspace", "remove the last tag"], ["Ctrl Z", "undo"], ["Ctrl Enter, PageDown", "on to the next picture, from any field"]]],
];
function help() {
  return dialog("Keyboard", () => h("div.ls-help", null, HELP.map(([title, keys]) => h("section", null, h("h3", null, title),
    h("dl", null, keys.map(([key, text]) => [h("dt", null, h("kbd", null, key)), h("dd", null, text)]))))), { wide: true });
}

document.addEventListener("keydown", (event) => {
  const text = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !text) { event.preventDefault(); (event.shiftKey ? redoLast : undoLast)(); return; }
  if (event.altKey && state.project && event.code && /^Digit[1-6]$/.test(event.code)) { event.preventDefault(); go(state.project, STEPS[event.code[5] - 1]); return; }
  if (!typing(event) && event.key === "?") help();
});

// ---- start ----------------------------------------------------------------------------------------------------------

function fromAddress() {
  const query = new URLSearchParams(location.search);
  go(query.get("project") || "", query.get("step") || "conception", { push: false });
}
window.addEventListener("popstate", () => { fromAddress(); refresh(); });

const drawers = [];
draw = () => drawers.forEach((one) => one());
part("sidebar", (root) => {
  drawers.push(sidebar(root));
  theme();
  fromAddress();
  draw();
  refresh();
  poll(root, 2, refresh);
});
part("steps", (root, trigger) => {
  drawers.push(steps(root));
  draw();
  const told = () => trigger("navigate", { project: state.project, step: state.step });
  let last = "";
  window.addEventListener("ls:go", () => { draw(); const key = state.project + "/" + state.step; if (key !== last) { last = key; told(); } });
  last = state.project + "/" + state.step;
  told();
  setInterval(() => {
    const heard = document.querySelector("#ls-current textarea, #ls-current input");
    if (heard && heard.value !== state.project) told();
  }, 3000);
});
window.addEventListener("ls:changed", refresh);

// Gradio's tabs and events are ready at a moment that nothing tells: until they follow, choose the step and tell it again.
setInterval(() => {
  const tab = document.getElementById(`steptab-${state.step}-button`);
  if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
}, 150);
