// Gathering: drop, paste or choose pictures, or say where to fetch them; what became of each; where they are from.
import { button, call, changed, fill, h, icon, number, part, plural, poll, showing, state, toast } from "./core.js";
import { createGrid, sizeButtons } from "./grid.js";
import { createOrigins } from "./origins.js";
import { load, pictures } from "./pictures.js";
import { ENDED, createQuarantine, createResults, uploadCard } from "./results.js";
import { createSources } from "./sources.js";
import { Lost, addresses, createUpload, dropped, pasted } from "./uploads.js";

const TABS = { add: "Add", results: "Last import", refused: "Not taken", origins: "Origin" };

/** A hidden file dialog; `took` gets [{file, name}]. */
function chooser(took, attributes) {
  const input = h("input", { type: "file", multiple: true, hidden: true, ...attributes });
  input.addEventListener("change", () => { took([...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }))); input.value = ""; });
  return input;
}

function meter({ count, low, high, enough, text }, wishes) {
  const most = Math.max(high * 1.15, count);
  const level = count < enough ? "" : count <= high ? ".good" : ".warn";
  return [h("div.ls-meter-head", null, h("span.ls-big", null, number(count)), h("span.ls-muted", null, `pictures; ${low} to ${high} are usual`)),
    h("div.ls-meter", { role: "meter", "aria-valuenow": String(count), "aria-valuemin": "0", "aria-valuemax": String(high), "aria-label": "Pictures gathered" },
      h("span.ls-meter-range", { style: `left:${(100 * low) / most}%;width:${(100 * (high - low)) / most}%` }),
      h("span.ls-meter-fill" + level, { style: `width:${(100 * count) / most}%` })),
    h("p.ls-muted", null, wishes.length ? [h("b", null, "Look for next: "), wishes[0]] : text),
    wishes.length > 1 && h("details.ls-more", { id: "ls-look-for", open: localStorage.getItem("lora-studio-look-for") === "open" }, h("summary", null, `${wishes.length - 1} more to look for`), h("ul.ls-wishes", null, wishes.slice(1).map((wish) => h("li", null, wish))))];
}

part("gathering", (root) => {
  let info = null, upload = null, watching = "", shown = "add", wishes = [];
  const files = chooser((found) => take(found), { "aria-label": "Choose files", id: "ls-files", accept: "image/*,video/*,.zip,.txt,.caption,.json,.jsonl,.csv,.heic,.avif,.jxl" });
  const folder = chooser((found) => take(found), { webkitdirectory: true, "aria-label": "Choose a folder", id: "ls-folder-input" });
  const videos = chooser((found) => take(found), { "aria-label": "Choose videos", id: "ls-videos", accept: "video/*,.mkv" });

  const sampleButton = (kind) => info && info.sample && button("Add the sample's pictures", () => begin("gathering.sample"), { kind, icon: "plus", id: "ls-add-sample" });
  const sources = createSources({ chooseFiles: () => files.click(), chooseFolder: () => folder.click(), chooseVideos: () => videos.click(), started: began, sampleButton: () => sampleButton(pictures.all.length ? "" : "primary") });
  const results = createResults({ select: (id) => grid.place(id) !== undefined && grid.choose(grid.place(id)), again: () => begin("gathering.again") });
  const quarantine = createQuarantine(() => ask());
  const origins = createOrigins(() => grid.selected);
  const bodies = { add: sources.node, results: results.node, refused: quarantine.node, origins: origins.node };

  let soon = 0;
  const grid = createGrid({
    label: "Gathered pictures",
    foot: (image) => image.name.split("/").pop(),
    badges: (image) => image.decision === "reject" ? [{ text: "rejected", level: "bad" }] : [],
    dim: (image) => image.decision === "reject",
    onSelect: () => { if (shown === "origins") { clearTimeout(soon); soon = setTimeout(() => origins.update().catch(() => {}), 120); } },
    empty: () => pictures.loaded ? h("div.ls-empty.ls-drop-big", null, icon("drop", 34), h("h3", null, "Drop pictures, folders or a zip here"),
      h("p", null, "Every file is checked first. Your originals are copied, never changed; captions in .txt files beside them are taken along."),
      h("div.ls-row", null, sampleButton("primary"), button("Choose files", () => files.click(), { icon: "image", kind: info && info.sample ? "" : "primary" }), button("Choose a folder", () => folder.click(), { icon: "folder" })))
      : h("div.ls-empty", null, h("p", null, "Loading pictures")),
  });

  const head = h("div.ls-toolbar"), meterBox = h("section"), uploadBox = h("div"), tabs = h("div.ls-segments.ls-side-tabs", { role: "tablist", "aria-label": "Gathering" });
  const side = h("div.ls-side", null, meterBox, uploadBox, tabs, Object.values(bodies));
  meterBox.addEventListener("toggle", (event) => localStorage.setItem("lora-studio-look-for", event.target.open ? "open" : "closed"), true);
  fill(root, files, folder, videos, h("div.ls-panes", null, h("div.ls-pane", null, head, grid.node), side), h("div.ls-drop-veil", null, icon("drop", 40), h("div", null, "Drop to add")));

  // ---- drawing ------------------------------------------------------------------------------------------------------

  function show(name) {
    shown = name;
    for (const [one, body] of Object.entries(bodies)) body.hidden = one !== name;
    drawTabs();
    const update = { refused: quarantine.update, origins: origins.update, add: sources.load, results: async () => info && results.update(info.job) }[name];
    if (update && state.project) update().catch(() => {});
  }

  function drawTabs() {
    const counts = { refused: info ? info.refused : 0 };
    fill(tabs, Object.entries(TABS).map(([name, title]) => h("button.ls-segment" + (name === shown ? ".current" : ""), { type: "button", role: "tab", id: `ls-side-${name}`, "aria-selected": String(name === shown), onclick: () => show(name) },
      title, counts[name] ? h("span.count", null, number(counts[name])) : null)));
  }

  function draw() {
    const used = pictures.all.filter((image) => image.decision !== "reject").length;
    fill(head, h("div.ls-muted", null, pictures.all.length ? `${plural(used, "picture")}${used < pictures.all.length ? `, ${pictures.all.length - used} rejected` : ""}` : ""), h("div.ls-fill"), pictures.all.length > 0 && sizeButtons(grid));
    fill(meterBox, info ? meter(info.meter, wishes).filter(Boolean) : h("div.ls-skeleton"));
    drawTabs();
    sources.offer(pictures.all.length > 0); // an empty grid offers it itself
    drawUpload();
  }
  function drawUpload() {
    fill(uploadBox, upload && uploadCard(upload, { goOn: send, leave }));
  }

  function leave() {
    const { batch } = upload;
    upload.cancel();
    upload = null;
    drawUpload();
    if (batch) call("gathering.leave", { batch }).catch(() => {});
  }

  // ---- importing ----------------------------------------------------------------------------------------------------

  async function take(found, unread = []) {
    if (!found.length && !unread.length) return;
    if (upload) { toast("Files are on their way already.", { remedy: "Add these when they have arrived.", level: "warn" }); return; }
    results.unsent(unread);
    if (!found.length) { show("results"); return; }
    upload = createUpload(state.project, found, drawUpload);
    Object.assign(upload, { project: state.project, source: sources.uploaded(found), unread });
    await send();
  }

  async function send() {
    const mine = upload;
    drawUpload();
    try {
      await mine.run();
      while (results.running && !mine.cancelled && mine.project === state.project) await new Promise((done) => setTimeout(done, 300));
      if (mine.cancelled) return;
      results.unsent([...mine.unread, ...mine.refused]);
      if (mine.refused.length < mine.count) await call("gathering.uploaded", { project: mine.project, batch: mine.batch, source: mine.source });
    } catch (error) {
      if (error instanceof Lost) { drawUpload(); return; }
      if (error.constructor.name !== "Failure") throw error;
    }
    upload = null;
    drawUpload();
    await began();
  }

  async function begin(name) {
    results.unsent([]);
    await call(name, { project: state.project });
    await began();
  }

  async function began() {
    show("results");
    await ask();
    changed();
  }

  let seen = 0, quiet = 0; // pictures at the last reload; when the next may be: a tenth of the time goes into them, also at 10,000
  async function reload() {
    const start = performance.now();
    seen = results.counts.added;
    await load(true);
    quiet = performance.now() + 10 * (performance.now() - start);
  }

  async function ask() {
    const project = state.project;
    if (!project) return;
    const found = await call("gathering.info", { project }, { quiet: true });
    if (project !== state.project) return;
    const before = info;
    info = found;
    const { job } = info;
    const running = Boolean(job) && !ENDED.includes(job.state);
    if (running && !watching && shown === "add") show("results");
    if (running || shown === "results") await results.update(job);
    if (running ? results.counts.added !== seen && performance.now() > quiet : watching) await reload(); // pictures appear as they come
    if (!running && job && watching === job.id) {
      changed();
      const refused = results.counts.refused;
      if (job.state === "done") toast(`${plural(job.added, "picture")} added`, { remedy: refused ? `${plural(refused, "file")} refused; the table says why.` : "", level: job.added || job.already ? "good" : "warn" });
      if (shown === "refused") quarantine.update().catch(() => {});
    }
    watching = running ? job.id : "";
    if (JSON.stringify(before) !== JSON.stringify(info)) draw();
  }

  async function look() {
    const project = state.project;
    const found = await call("gathering.next", { project }, { quiet: true });
    if (project === state.project) { wishes = found; if (info) fill(meterBox, meter(info.meter, wishes)); }
  }

  // ---- events -------------------------------------------------------------------------------------------------------

  let project = "";
  async function arrive() {
    if (state.step !== "gathering" || !state.project) return;
    if (project !== state.project) { project = state.project; info = null; wishes = []; watching = ""; results.clear(); grid.set([]); show("add"); draw(); }
    await load();
    grid.set(pictures.all);
    await ask();
    draw();
    if (!pictures.all.length) grid.set(pictures.all); // now that it is known whether there is a sample
    await look();
  }
  const come = () => arrive().catch(() => {});
  window.addEventListener("ls:go", come);
  let later = 0;
  window.addEventListener("ls:pictures", () => {
    if (state.step !== "gathering" || pictures.project !== state.project) return;
    grid.set(pictures.all);
    ask().then(draw, () => {});
    clearTimeout(later);
    later = setTimeout(() => look().catch(() => {}), 800);
  });
  window.addEventListener("ls:next", (event) => { if (event.detail === "gathering") (info && info.sample && !pictures.all.length ? begin("gathering.sample").catch(() => {}) : files.click()); });
  window.addEventListener("online", () => { if (upload && upload.lost) send(); });

  let depth = 0;
  const wanted = (event) => ["Files", "text/uri-list"].some((type) => [...event.dataTransfer.types].includes(type));
  root.addEventListener("dragenter", (event) => { if (wanted(event)) { depth += 1; root.classList.add("dragging"); } });
  root.addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) root.classList.remove("dragging"); });
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    root.classList.remove("dragging");
    const lines = addresses(event.dataTransfer.getData("text/uri-list"));
    const { found, unread } = await dropped(event.dataTransfer);
    if (found.length || unread.length) take(found, unread); else if (lines.length) { show("add"); await sources.load(); sources.addresses(lines); }
  });
  document.addEventListener("dragover", (event) => event.preventDefault()); // a miss must not navigate away
  document.addEventListener("drop", (event) => event.preventDefault());
  document.addEventListener("paste", async (event) => {
    if (!showing(root) || !state.project || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || document.querySelector("dialog[open]")) return;
    const found = pasted(event.clipboardData);
    const lines = addresses(event.clipboardData.getData("text/plain"));
    if (found.length) { event.preventDefault(); await take(found); } else if (lines.length) { event.preventDefault(); show("add"); await sources.load(); sources.addresses(lines); }
  });
  poll(root, 1, async () => { if (!info || watching || (info.job && !ENDED.includes(info.job.state))) await ask(); });
  show("add");
  draw();
  come();
});
