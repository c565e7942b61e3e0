// Gathering: drop files, folders and zips anywhere on the tab; a path on this machine; the sample's pictures.
import { bytes, button, call, changed, fill, h, icon, number, part, plural, poll, showing, state, toast } from "./core.js";
import { createGrid, sizeButtons } from "./grid.js";
import { load, pictures } from "./pictures.js";

const CHUNK = 8 * 2 ** 20;
const ENDED = ["done", "stopped", "failed", "interrupted"];

/** Files of a drop, folders unfolded: [{file, name}]. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, name: file.name }));
  const found = [];
  async function walk(entry) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({ file, name: entry.fullPath.replace(/^\//, "") });
    } else {
      const reader = entry.createReader();
      for (;;) { // a reader gives at most 100 entries a call
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!some.length) break;
        for (const child of some) await walk(child);
      }
    }
  }
  for (const entry of entries) await walk(entry);
  return found;
}

async function send(batch, { file, name }, told) {
  for (let offset = 0; offset === 0 || offset < file.size; offset += CHUNK) {
    const address = `/upload/${batch}?name=${encodeURIComponent(name)}&offset=${offset}`;
    const answer = await fetch(address, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file.slice(offset, offset + CHUNK) });
    if (!answer.ok) {
      const text = answer.status === 400 ? (await answer.json()).error : { message: `${name} was not taken (${answer.status}).`, remedy: "" };
      throw Object.assign(new Error(text.message), { remedy: text.remedy });
    }
    told(Math.min(CHUNK, file.size - offset));
  }
}

part("gathering", (root) => {
  let info = null;
  let uploading = null;
  let wasRunning = false;
  const files = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Choose files", id: "ls-files", accept: "image/*,.zip,.txt,.caption" });
  const folder = h("input", { type: "file", multiple: true, hidden: true, webkitdirectory: true, "aria-label": "Choose a folder", id: "ls-folder-input" });
  for (const input of [files, folder]) {
    input.addEventListener("change", () => { take([...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }))); input.value = ""; });
  }

  async function take(found) {
    if (!found.length || uploading) return;
    const project = state.project;
    const total = found.reduce((sum, item) => sum + item.file.size, 0);
    uploading = { done: 0, total, count: found.length };
    draw();
    try {
      const batch = await call("gathering.begin", { project });
      const queue = [...found];
      const worker = async () => { for (let item = queue.shift(); item; item = queue.shift()) await send(batch, item, (size) => { uploading.done += size; drawJob(); }); };
      await Promise.all([worker(), worker(), worker()]);
      uploading = null;
      await call("gathering.uploaded", { project, batch });
      wasRunning = true;
      await ask();
      changed();
    } catch (error) {
      if (!(error.constructor.name === "Failure")) toast(error.message, { remedy: error.remedy || "Drop the files again.", level: "bad" });
    } finally { uploading = null; draw(); }
  }

  async function start(name, args = {}) {
    await call(name, { project: state.project, ...args });
    wasRunning = true;
    await ask();
    changed();
  }

  const sampleButton = (kind = "primary") => info && info.sample && button("Add the sample's pictures", () => start("gathering.sample"), { kind, icon: "plus", id: "ls-add-sample" });
  const grid = createGrid({
    label: "Gathered pictures",
    foot: (image) => image.name.split("/").pop(),
    badges: (image) => image.decision === "reject" ? [{ text: "rejected", level: "bad" }] : [],
    dim: (image) => image.decision === "reject",
    empty: () => pictures.loaded ? h("div.ls-empty.ls-drop-big", null, icon("drop", 34), h("h3", null, "Drop pictures, folders or a zip here"),
      h("p", null, "Every file is checked first. Your originals are copied, never changed; captions in .txt files beside them are taken along."),
      h("div.ls-row", null, info && info.sample ? sampleButton() : null, button("Choose files", () => files.click(), { icon: "image", kind: info && info.sample ? "" : "primary" }), button("Choose a folder", () => folder.click(), { icon: "folder" })))
      : h("div.ls-empty", null, h("p", null, "Loading pictures")),
  });

  const head = h("div.ls-toolbar");
  const side = h("div.ls-side");
  const jobBox = h("div");
  fill(root, files, folder, h("div.ls-panes", null, h("div.ls-pane", null, head, grid.node), side), h("div.ls-drop-veil", null, icon("drop", 40), h("div", null, "Drop to add")));

  function meter() {
    const { count, low, high, enough, text } = info.meter;
    const most = Math.max(high * 1.15, count);
    const level = count < enough ? "" : count <= high ? ".good" : ".warn";
    return h("section", null, h("div.ls-meter-head", null, h("span.ls-big", null, number(count)), h("span.ls-muted", null, `pictures; ${low} to ${high} are usual`)),
      h("div.ls-meter", { role: "meter", "aria-valuenow": String(count), "aria-valuemin": "0", "aria-valuemax": String(high), "aria-label": "Pictures gathered" },
        h("span.ls-meter-range", { style: `left:${(100 * low) / most}%;width:${(100 * (high - low)) / most}%` }),
        h("span.ls-meter-fill" + level, { style: `width:${(100 * count) / most}%` })),
      h("p.ls-muted", null, text));
  }

  function addSection() {
    const path = h("input.ls-input", { type: "text", placeholder: "/home/me/pictures or a .zip", "aria-label": "Path on this machine", id: "ls-path" });
    const go = async () => { await start("gathering.folder", { path: path.value }); path.value = ""; };
    path.addEventListener("keydown", (event) => { if (event.key === "Enter") go().catch(() => {}); });
    return h("section", null, h("h3", null, "Add pictures"),
      h("div.ls-row", null, button("Files", () => files.click(), { icon: "image" }), button("Folder", () => folder.click(), { icon: "folder" }), sampleButton(pictures.all.length ? "" : "primary")),
      h("div.ls-field", null, h("label.ls-muted", { for: "ls-path" }, "Or import a folder or zip by its path"), h("div.ls-inline", null, path, button("Import", go))));
  }

  function drawJob() {
    if (uploading) {
      fill(jobBox, h("section.ls-running", null, h("h3", null, `Receiving ${plural(uploading.count, "file")}`),
        h("span.ls-bar", null, h("span", { style: `width:${uploading.total ? (100 * uploading.done) / uploading.total : 0}%` })), h("p.ls-muted", null, `${bytes(uploading.done)} of ${bytes(uploading.total)}`)));
      return;
    }
    const job = info && info.job;
    if (!job) { fill(jobBox); return; }
    if (!ENDED.includes(job.state)) {
      fill(jobBox, h("section.ls-running", null, h("h3", null, job.state === "queued" ? "Waiting for another job to end" : "Importing"),
        h("span.ls-bar" + (job.total ? "" : ".endless"), null, h("span", { style: `width:${job.total ? (100 * job.done) / job.total : 0}%` })),
        h("div.ls-inline", null, h("p.ls-muted.ls-ellipsis", null, job.total ? `${number(job.done)} of ${number(job.total)} · ${job.text}` : job.text || "Starting"),
          button("Stop", () => call("job.command", { project: state.project, group: "jobs", job: job.id, word: "stop" }), { kind: "quiet", icon: "stop" }))));
      return;
    }
    if (job.state === "failed" || job.state === "interrupted") {
      fill(jobBox, h("section.ls-problem", null, h("h3", null, "The import ended early"), h("p", null, job.error), h("p.ls-muted", null, job.remedy === "Resume it." ? "Add the same files again: those already here are skipped." : job.remedy)));
      return;
    }
    fill(jobBox, h("section", null, h("h3", null, "Last import"),
      h("div.ls-counts", null, h("div.good", null, h("b", null, number(job.added)), "added"), h("div", null, h("b", null, number(job.already)), "already here"), h("div" + (job.num_refused ? ".warn" : ""), null, h("b", null, number(job.num_refused)), "refused")),
      job.captions > 0 && h("p.ls-muted", null, `${plural(job.captions, "caption")} came along.`),
      job.refused.length > 0 && h("table.ls-table", { id: "ls-refused" }, h("thead", null, h("tr", null, h("th", null, "Refused"), h("th", null, "Why"))), h("tbody", null, job.refused.map((item) => h("tr", null, h("td", { title: item.file }, item.file), h("td", null, item.reason))))),
      job.num_refused > job.refused.length && h("p.ls-muted", null, `and ${number(job.num_refused - job.refused.length)} more`)));
  }

  function draw() {
    const used = pictures.all.filter((image) => image.decision !== "reject").length;
    fill(head, h("div.ls-muted", null, pictures.all.length ? `${plural(used, "picture")}${used < pictures.all.length ? `, ${pictures.all.length - used} rejected` : ""}` : ""), h("div.ls-fill"), pictures.all.length > 0 && sizeButtons(grid));
    if (!root.contains(document.activeElement) || document.activeElement.id !== "ls-path") {
      if (info) fill(side, meter(), addSection(), jobBox); else fill(side, h("div.ls-skeleton"), h("div.ls-skeleton"));
    }
    drawJob();
  }

  async function ask() {
    if (!state.project) return;
    const project = state.project;
    const found = await call("gathering.info", { project }, { quiet: true });
    if (project !== state.project) return;
    const before = info && info.job;
    info = found;
    const job = info.job;
    const running = job && !ENDED.includes(job.state);
    if (running) await load(true); // pictures appear as they come
    if (!running && wasRunning && job) {
      wasRunning = false;
      await load(true);
      changed();
      if (job.state === "done") toast(`${plural(job.added, "picture")} added`, { remedy: job.num_refused ? `${plural(job.num_refused, "file")} refused; the table says why.` : "" , level: job.added || job.already ? "good" : "warn" });
    }
    wasRunning = running;
    if (!before || running || JSON.stringify(before) !== JSON.stringify(job)) draw();
  }

  window.addEventListener("ls:pictures", () => { if (state.step === "gathering") { grid.set(pictures.all); ask().then(draw, () => {}); } });
  window.addEventListener("ls:go", () => { if (state.step === "gathering") { if (info && pictures.project !== state.project) { info = null; grid.set([]); draw(); } ask().then(() => { draw(); grid.set(pictures.all); }, () => {}); } });

  window.addEventListener("ls:next", (event) => { if (event.detail === "gathering") (info && info.sample && !pictures.all.length ? start("gathering.sample").catch(() => {}) : files.click()); });
  let depth = 0;
  root.addEventListener("dragenter", (event) => { if ([...event.dataTransfer.types].includes("Files")) { depth += 1; root.classList.add("dragging"); } });
  root.addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) root.classList.remove("dragging"); });
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", async (event) => { event.preventDefault(); depth = 0; root.classList.remove("dragging"); take(await dropped(event.dataTransfer)); });
  document.addEventListener("dragover", (event) => event.preventDefault()); // a miss must not navigate away
  document.addEventListener("drop", (event) => event.preventDefault());
  poll(root, 1, async () => { if (!info || (info.job && !ENDED.includes(info.job.state))) await ask(); });
  load().then(() => { grid.set(pictures.all); return ask(); }).then(() => { draw(); grid.set(pictures.all); }, () => {});
  draw();
});
