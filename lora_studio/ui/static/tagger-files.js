// Captions as files: written out for other programs, read in from them, and folders watched for their edits.
import { Failure, button, call, changed, dialog, fill, h, icon, number, plural, poll, state } from "./core.js";
import { load, pictures, used } from "./pictures.js";
import { showEdits } from "./tagger-edits.js";
import { Lost, createUpload } from "./uploads.js";
import { confirmDiff } from "./words-diff.js";

const FORMS = {
  txt: [".txt beside each picture", "What nearly every trainer reads."],
  caption: [".caption beside each picture", "The same, under the ending that some scripts ask for."],
  kohya: ["One captions.json", "As kohya's scripts read and write it."],
  "metadata.jsonl": ["metadata.jsonl", "One line a picture, as data sets on the Hugging Face hub have it."],
};
const TABS = { out: "Write out", in: "Read in", watch: "Watched folders" };
const READS = [".txt", ".caption", ".json", ".jsonl", ".csv", ".zip"];
const last = (path) => path.split(/[\\/]/).filter(Boolean).pop() || path;

/** {node, line, draw()}: a button for the toolbar, and a line that tells of edits found in a watched folder. */
export function filesMenu() {
  let folders = [], project = "", drawn = "";
  const node = button("Files", () => open(), { icon: "folder", kind: "quiet", id: "ls-caption-files", title: "Write captions out for other programs, or read theirs in" });
  const line = h("div.ls-files-line");

  async function ask() {
    if (!state.project) return;
    const asked = state.project;
    const found = await call("files.watched", { project: asked }, { quiet: true });
    if (asked !== state.project) return;
    project = asked;
    folders = found;
    draw();
  }
  /** After captions were taken over. */
  async function taken(answer) { await load(true); changed(); await ask(); return answer; }
  async function look(folder) { const answer = await showEdits(folder); if (answer) await taken(answer); }

  function draw() {
    if (project !== state.project) folders = [];
    node.disabled = !pictures.all.some(used);
    const waiting = folders.filter((one) => one.changes || one.conflicts);
    const key = JSON.stringify(waiting);
    if (key === drawn) return;
    drawn = key;
    fill(line, waiting.map((one) => h("section.ls-found.flat", { "data-folder": last(one.folder) }, icon("folder"),
      h("span.ls-fill.ls-ellipsis", { title: one.folder }, h("b", null, plural(one.changes + one.conflicts, "caption")), ` changed in ${last(one.folder)} by another program`, one.conflicts > 0 && h("span.ls-warn", null, ` · ${number(one.conflicts)} here as well`)),
      button("Look", () => look(one.folder), { kind: "primary" }), button("Stop watching", () => unwatch(one.folder), { kind: "quiet" }))));
  }
  async function unwatch(folder) { await call("files.unwatch", { project: state.project, folder }); await ask(); }

  // ---- the dialog -----------------------------------------------------------------------------------------------------

  async function open(first = "out") {
    const { owner } = await call("files.info", { project: state.project });
    await ask();
    return dialog("Captions as files", (close) => {
      let tab = first;
      const tabs = h("div.ls-segments", { role: "group", "aria-label": "What to do" }), body = h("div.ls-stack.ls-files-body");
      const bodies = { out: () => writeOut(owner), in: () => takeIn(owner, close), watch: () => watching(show, close) };
      function show(name = tab) {
        tab = name;
        fill(tabs, Object.entries(TABS).filter(([one]) => owner || one !== "watch").map(([one, title]) => h("button.ls-segment" + (one === tab ? ".current" : ""), { type: "button", id: `ls-files-${one}`, "aria-pressed": String(one === tab), onclick: () => show(one) }, title)));
        fill(body, bodies[tab]());
      }
      show();
      return h("div.ls-stack", null, tabs, body);
    });
  }

  /** A field for a folder of the studio's machine, with what is wrong with it below. `go` is the word on its button. */
  function folderField(id, go, work, kind = "") {
    const input = h("input.ls-input", { type: "text", id, placeholder: "/home/me/captions", "aria-label": "Folder on this machine", spellcheck: "false", autocomplete: "off", onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); act.click(); } } });
    const wrong = h("div.ls-field-problem", { role: "alert" });
    const field = h("div.ls-field", null, input, wrong);
    input.addEventListener("input", () => { wrong.textContent = ""; field.classList.remove("bad"); });
    const act = button(go, async () => {
      if (!input.value.trim()) { input.focus(); return; }
      try { await work(input.value.trim()); } catch (error) {
        if (!(error instanceof Failure)) throw error;
        wrong.textContent = [error.message, error.remedy].filter(Boolean).join(" ");
        field.classList.add("bad");
      }
    }, { kind, id: `${id}-go` });
    return h("div.ls-folder-field", null, field, act);
  }

  /** Write into a folder; `said` tells what became of it, and offers to replace what others made. */
  async function write(said, form, folder, overwrite = false) {
    const { written, empty, kept, num_kept: others, replaced } = await call("files.export", { project: state.project, form, folder, overwrite }, { quiet: true });
    await ask();
    fill(said, h("div.ls-note.good", null, h("span", null, `Captions of ${plural(written, "picture")} are in ${folder}. Edits made there are offered here.`, empty ? ` ${plural(empty, "picture")} without a caption ${empty === 1 ? "has" : "have"} no file.` : "", replaced ? ` Copies of what was there are in ${replaced}.` : "")),
      others > 0 && h("div.ls-note.warn", null, h("span", null, `${plural(others, "file")} there ${others === 1 ? "is" : "are"} by somebody else and ${others === 1 ? "was" : "were"} left: ${kept.slice(0, 3).join(", ")}${others > 3 ? " …" : ""} `, h("button.ls-link", { type: "button", id: "ls-export-replace", onclick: () => write(said, form, folder, true).catch(() => {}) }, "Replace, and keep copies"))));
  }

  function writeOut(owner) {
    let form = localStorage.getItem("lora-studio-caption-form") || "txt";
    const said = h("div.ls-stack", { role: "status" });
    const forms = h("div.ls-forms", { role: "radiogroup", "aria-label": "Form" }, Object.entries(FORMS).map(([name, [title, text]]) => h("label.ls-form-choice", null,
      h("input", { type: "radio", name: "ls-caption-form", value: name, checked: name === form, onchange: () => { form = name; localStorage.setItem("lora-studio-caption-form", name); } }), h("span", null, h("b", null, title), h("span.ls-muted", null, text)))));
    const zip = button("Download as a zip", async () => {
      const { name, written } = await call("files.export", { project: state.project, form });
      const link = h("a", { href: `/media/${encodeURIComponent(state.project)}/exports/${encodeURIComponent(name)}`, download: name });
      document.body.append(link);
      link.click();
      link.remove();
      fill(said, h("div.ls-note.good", null, h("span", null, `Captions of ${plural(written, "picture")} are in ${name}.`)));
    }, { kind: "primary", icon: "save", id: "ls-export-zip" });
    return [forms, h("div.ls-row", null, zip),
      owner && [h("div.ls-or", null, "or into a folder of this machine"), folderField("ls-export-folder", "Write", (folder) => write(said, form, folder))], said];
  }

  // ---- reading in -------------------------------------------------------------------------------------------------------

  /** Read-in shows its diff, and what could not be used; what is written becomes one step of undo. */
  function readIn(where) {
    const note = h("div.ls-stack.ls-read-note");
    const list = (title, names) => names.length > 0 && h("details.ls-more", null, h("summary", null, title), h("ul.ls-wishes", null, names.slice(0, 100).map((name) => h("li", null, name))));
    const preview = async () => {
      const page = await call("files.preview", { project: state.project, ...where }, { quiet: true });
      fill(note, h("span", null, `Texts of ${plural(page.found, "picture")} were found.`), list(`${plural(page.unmatched_count, "file")} fit no picture`, page.unmatched), list(`${plural(page.problems.length, "file")} could not be used`, page.problems));
      return page;
    };
    const apply = async (digest) => taken(await call("files.import", { project: state.project, ...where, digest }, { quiet: true }));
    return confirmDiff({ title: "What these files would change", note, preview, apply });
  }

  function takeIn(owner, close) {
    const said = h("div", { role: "status" });
    const chooser = (attributes) => { const input = h("input", { type: "file", multiple: true, hidden: true, ...attributes }); input.addEventListener("change", () => send([...input.files]).catch((error) => { if (!(error instanceof Failure)) throw error; })); return input; };
    async function send(chosen) {
      const found = chosen.filter((file) => READS.some((end) => file.name.toLowerCase().endsWith(end))).map((file) => ({ file, name: file.webkitRelativePath || file.name }));
      if (!found.length) { fill(said, h("div.ls-note.warn", null, h("span", null, "There are no caption files among these."))); return; }
      const upload = createUpload(state.project, found, () => fill(said, h("span.ls-muted", null, `Receiving ${number(upload.count - upload.left)} of ${plural(upload.count, "file")}`)));
      try { await upload.run(); } catch (error) { if (!(error instanceof Lost)) throw error; fill(said, h("div.ls-note.bad", null, h("span", null, `${error.message} Choose the files again.`))); return; }
      close();
      await readIn({ batch: upload.batch });
    }
    const files = chooser({ accept: READS.join(","), id: "ls-caption-chooser", "aria-label": "Choose caption files" });
    const folder = chooser({ webkitdirectory: true, "aria-label": "Choose a folder" });
    return [h("p.ls-muted", null, "Captions find their picture by its file name: .txt, .caption, .json and .jsonl, or a zip of them, in whichever encoding. You see every change before it is written."),
      h("div.ls-row", null, button("Choose files", () => files.click(), { icon: "image", kind: "primary", id: "ls-import-files" }), button("Choose a folder", () => folder.click(), { icon: "folder" })), files, folder, said,
      owner && [h("div.ls-or", null, "or from a folder of this machine"), folderField("ls-import-folder", "Look", async (path) => { await call("files.preview", { project: state.project, folder: path }, { quiet: true }); close(); await readIn({ folder: path }); })]];
  }

  // ---- watched folders --------------------------------------------------------------------------------------------------

  function watching(show, close) {
    const said = h("div.ls-stack", { role: "status" });
    const told = (one) => one.missing ? "The folder is gone, or its disk is not connected." : [one.changes && `${plural(one.changes, "caption")} changed there`, one.conflicts && `${plural(one.conflicts, "caption")} changed on both sides`, one.ahead > one.conflicts && `${plural(one.ahead - one.conflicts, "caption")} changed here since`, one.gone && `${plural(one.gone, "file")} taken away`].filter(Boolean).join(" · ") || "Both sides agree.";
    return [h("p.ls-muted", null, "When another program changes captions in one of these folders, the studio offers its edits. None is taken without you."),
      folders.map((one) => h("div.ls-watched", { "data-folder": last(one.folder) }, icon("folder", 18), h("div.ls-fill", null, h("b.ls-path", null, one.folder), h("div.ls-muted", null, told(one))),
        (one.changes > 0 || one.conflicts > 0) && button("Look", async () => { close(); await look(one.folder); }, { kind: "primary small" }),
        one.ahead > one.conflicts && !one.missing && button("Write again", async () => { await write(said, one.form, one.folder); show(); }, { kind: "small", title: "Bring the folder up to date" }),
        button("Stop", async () => { await unwatch(one.folder); show(); }, { kind: "quiet small", title: "Watch it no longer; its files stay" }))),
      !folders.length && h("p.ls-faint", null, "No folder is watched yet."),
      h("div.ls-or", null, "watch another one"), folderField("ls-watch-folder", "Write and watch", async (folder) => { await write(said, "txt", folder); show(); }), said];
  }

  window.addEventListener("ls:go", () => { if (state.step === "tagging" && project !== state.project) ask().catch(() => {}); });
  poll(node, 4, async () => { if (project !== state.project || folders.length) await ask(); });
  draw();
  return { node, line, draw };
}
