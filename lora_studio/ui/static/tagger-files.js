// Captions as files: written out for other programs, read in from them, and a folder that is watched for their edits.
import { Failure, button, call, changed, dialog, fill, h, icon, number, plural, poll, state, toast } from "./core.js";
import { load, pictures, used } from "./pictures.js";
import { Lost, createUpload } from "./uploads.js";
import { confirmDiff } from "./words-diff.js";

const FORMS = {
  txt: [".txt beside each picture", "What most trainers read."],
  caption: [".caption beside each picture", "The same under the ending that older scripts ask for."],
  kohya: ["One JSON file, as kohya's scripts", "meta_cap.json with the tags of every picture."],
  "metadata.jsonl": ["metadata.jsonl", "One line a picture, as data sets on the hub have it."],
};
const TABS = { out: "Write out", in: "Read in", watch: "Watched folder" };
const READS = ".txt,.caption,.json,.jsonl,.csv,.zip";

/** {node, line, draw()}: a button for the toolbar, and a line that tells of edits found in the watched folder. */
export function filesMenu() {
  let watched = null, project = "", drawn = "";
  const node = button("Files", () => open(), { icon: "folder", kind: "quiet", id: "ls-caption-files", title: "Write captions out for other programs, or read theirs in" });
  const line = h("div.ls-files-line");

  async function ask() {
    if (!state.project) return;
    const asked = state.project;
    const found = await call("files.watch", { project: asked }, { quiet: true });
    if (asked !== state.project) return;
    project = asked;
    watched = found;
    draw();
  }

  /** Read-in shows its diff; what is written becomes one step of undo. */
  const taken = async (answer) => { await load(true); changed(); await ask(); return answer; };
  function readIn(where) {
    const note = h("div.ls-stack.ls-read-note");
    const preview = async () => {
      const page = await call("files.preview", { project: state.project, ...where }, { quiet: true });
      const list = (title, names, count) => count > 0 && h("details.ls-more", null, h("summary", null, title), h("ul.ls-wishes", null, names.slice(0, 100).map((name) => h("li", null, name))));
      fill(note, h("span", null, `Captions of ${plural(page.found, "picture")} were found.`), list(`${plural(page.unmatched_count, "file")} fit no picture`, page.unmatched, page.unmatched_count), list(`${plural(page.problems.length, "file")} could not be read`, page.problems, page.problems.length));
      return page;
    };
    return confirmDiff({ title: "What these files would change", note, preview, apply: async (digest) => taken(await call("files.import", { project: state.project, ...where, digest }, { quiet: true })) });
  }
  const takeEdits = () => confirmDiff({ title: "Edits by another program", note: watched.conflicts ? `${plural(watched.conflicts, "caption")} changed on both sides: the file's text is offered.` : null, preview: () => call("files.changes", { project: state.project }, { quiet: true }), apply: async (digest) => taken(await call("files.take", { project: state.project, digest }, { quiet: true })) });

  function draw() {
    if (project !== state.project) watched = null;
    node.disabled = !pictures.all.some(used);
    const key = JSON.stringify(watched);
    if (key === drawn) return;
    drawn = key;
    const waiting = watched && (watched.changes || watched.problem);
    fill(line, waiting && h("section.ls-found.flat" + (watched.problem ? ".warn" : ""), { id: "ls-files-found" }, icon(watched.problem ? "warn" : "folder"),
      h("span.ls-fill.ls-ellipsis", { title: watched.folder }, watched.problem ? watched.problem : [h("b", null, plural(watched.changes, "caption")), ` changed in ${watched.folder.split(/[\\/]/).pop()} by another program.`]),
      watched.changes > 0 && button("Look", takeEdits, { kind: "primary", id: "ls-files-look" }), button("Stop watching", () => stop(), { kind: "quiet" })));
  }
  async function stop() { await call("files.unwatch", { project: state.project }); await ask(); }

  // ---- the dialog -----------------------------------------------------------------------------------------------------

  async function open(first = "out") {
    const { owner } = await call("files.info", { project: state.project });
    await ask();
    return dialog("Captions as files", (close) => {
      let tab = first;
      const tabs = h("div.ls-segments", { role: "group", "aria-label": "What to do" }), body = h("div.ls-stack.ls-files-body");
      const bodies = { out: () => writeOut(owner), in: () => takeIn(owner, close), watch: () => watching(owner, show) };
      function show(name = tab) {
        tab = name;
        fill(tabs, Object.entries(TABS).filter(([one]) => owner || one !== "watch").map(([one, title]) => h("button.ls-segment" + (one === tab ? ".current" : ""), { type: "button", id: `ls-files-${one}`, "aria-pressed": String(one === tab), onclick: () => show(one) }, title)));
        fill(body, bodies[tab]());
      }
      show();
      return h("div.ls-stack", null, tabs, body);
    });
  }

  /** A field for a folder of the studio's machine, with what is wrong with it below. */
  function folderField(id, placeholder, value = "") {
    const input = h("input.ls-input", { type: "text", id, placeholder, "aria-label": "Folder on this machine", spellcheck: "false", autocomplete: "off", value });
    const wrong = h("div.ls-field-problem", { role: "alert" });
    const field = h("div.ls-field.ls-fill", null, input, wrong);
    input.addEventListener("input", () => { wrong.textContent = ""; field.classList.remove("bad"); });
    const trying = async (work) => {
      if (!input.value.trim()) { input.focus(); return; }
      try { await work(input.value.trim()); } catch (error) {
        if (!(error instanceof Failure)) throw error;
        wrong.textContent = [error.message, error.remedy].filter(Boolean).join(" ");
        field.classList.add("bad");
      }
    };
    return { field, trying };
  }

  function writeOut(owner) {
    let form = localStorage.getItem("lora-studio-caption-form") || "txt";
    const said = h("div", { role: "status" });
    const forms = h("div.ls-forms", { role: "radiogroup", "aria-label": "Form" }, Object.entries(FORMS).map(([name, [title, text]]) => h("label.ls-form-choice", null,
      h("input", { type: "radio", name: "ls-caption-form", value: name, checked: name === form, onchange: () => { form = name; localStorage.setItem("lora-studio-caption-form", name); } }), h("span", null, h("b", null, title), h("span.ls-muted", null, text)))));
    const where = owner && folderField("ls-export-folder", "/home/me/captions");
    async function write(folder, overwrite) {
      const { written, empty, kept, num_kept: others, replaced } = await call("files.export", { project: state.project, form, folder, overwrite }, { quiet: true });
      fill(said, h("div.ls-note.good", null, h("span", null, `Captions of ${plural(written, "picture")} are in ${folder}.`, empty ? ` ${plural(empty, "picture")} without a caption ${empty === 1 ? "has" : "have"} no file.` : "", replaced ? ` Copies of what was there are in ${replaced}.` : "")),
        others > 0 && h("div.ls-note.warn", null, h("span", null, `${plural(others, "file")} there ${others === 1 ? "is" : "are"} by somebody else and ${others === 1 ? "was" : "were"} left: ${kept.slice(0, 3).join(", ")}${others > 3 ? " …" : ""} `, button("Replace, and keep copies", () => write(folder, true), { kind: "small", id: "ls-export-replace" }))));
    }
    const zip = button("Download as a zip", async () => {
      const { name } = await call("files.export", { project: state.project, form });
      const link = h("a", { href: `/media/${encodeURIComponent(state.project)}/exports/${encodeURIComponent(name)}`, download: name });
      document.body.append(link);
      link.click();
      link.remove();
    }, { kind: "primary", icon: "save", id: "ls-export-zip" });
    return [forms, h("div.ls-row", null, zip, h("span.ls-muted", null, `Captions of ${plural(pictures.all.filter(used).length, "picture")}`)),
      owner && [h("div.ls-or", null, "or straight into a folder of this machine"), h("div.ls-inline", null, where.field, button("Write", () => where.trying(async (folder) => {
        await write(folder, false);
      }), { id: "ls-export-write" })), said]];
  }

  function takeIn(owner, close) {
    const input = (attributes) => { const chooser = h("input", { type: "file", multiple: true, hidden: true, ...attributes }); chooser.addEventListener("change", () => send([...chooser.files]).catch((error) => { if (!(error instanceof Failure)) throw error; })); return chooser; };
    const said = h("div", { role: "status" });
    async function send(chosen) {
      const found = chosen.filter((file) => READS.split(",").some((end) => file.name.toLowerCase().endsWith(end))).map((file) => ({ file, name: file.webkitRelativePath || file.name }));
      if (!found.length) { fill(said, h("div.ls-note.warn", null, h("span", null, "No caption files among these: .txt, .caption, .json or .jsonl are read."))); return; }
      const upload = createUpload(state.project, found, () => fill(said, h("span.ls-muted", null, `Receiving ${number(upload.count - upload.left)} of ${plural(upload.count, "file")}`)));
      try { await upload.run(); } catch (error) { if (!(error instanceof Lost)) throw error; fill(said, h("div.ls-note.bad", null, h("span", null, `${error.message} Choose the files again.`))); return; }
      close();
      await readIn({ batch: upload.batch });
    }
    const files = input({ accept: READS, id: "ls-caption-chooser", "aria-label": "Choose caption files" });
    const folder = input({ webkitdirectory: true, "aria-label": "Choose a folder" });
    const where = owner && folderField("ls-import-folder", "/home/me/captions");
    return [h("p.ls-muted", null, "Captions find their picture by its file name: .txt, .caption, .json, .jsonl, or a zip of them. You see every change before it is written."),
      h("div.ls-row", null, button("Choose files", () => files.click(), { icon: "image", kind: "primary", id: "ls-import-files" }), button("Choose a folder", () => folder.click(), { icon: "folder" })), files, folder, said,
      owner && [h("div.ls-or", null, "or from a folder of this machine"), h("div.ls-inline", null, where.field, button("Look", () => where.trying(async (path) => { await call("files.preview", { project: state.project, folder: path }, { quiet: true }); close(); await readIn({ folder: path }); }), { id: "ls-import-look" }))]];
  }

  function watching(owner, show) {
    if (watched && watched.folder) {
      return [h("div.ls-watched", null, icon("folder", 18), h("div.ls-fill", null, h("b.ls-path", null, watched.folder), h("div.ls-muted", null, watched.problem || (watched.changes ? `${plural(watched.changes, "caption")} changed there` : "Nothing was changed there"))), button("Stop watching", async () => { await stop(); show(); }, { kind: "quiet", id: "ls-unwatch" })),
        watched.changes > 0 && h("div.ls-row.end", null, button("Look at the edits", takeEdits, { kind: "primary" }))];
    }
    const where = folderField("ls-watch-folder", "/home/me/captions");
    return [h("p.ls-muted", null, "Captions are written into the folder as .txt files. When another program changes them there, the studio offers the edits; none is taken without you."),
      h("div.ls-inline", null, where.field, button("Watch", () => where.trying(async (folder) => { await call("files.watch", { project: state.project, folder }, { quiet: true }); await ask(); show(); toast("The folder is watched"); }), { kind: "primary", id: "ls-watch" }))];
  }

  window.addEventListener("ls:go", () => { if (state.step === "tagging" && project !== state.project) ask().catch(() => {}); });
  poll(node, 4, async () => { if (project !== state.project || (watched && watched.folder)) await ask(); });
  draw();
  return { node, line, draw };
}
