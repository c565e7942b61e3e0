// What became of each file: the running import with Stop, its table that grows, and the list of what could not be taken.
import { button, bytes, call, confirm, fill, h, icon, number, plural, state, toast } from "./core.js";
import { copy } from "./uploads.js";

export const ENDED = ["done", "stopped", "failed", "interrupted"];
const SHOWN = 200; // rows on the page; Copy gives all
const COPY = "M3.5 2.5h6.5v2M3.5 2.5v8M6 5h7v8.5H6z";
const glyph = (path) => h("svg.ls-icon", { viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" }, h("path", { d: path }));
const WORDS = { added: "added", already: "there already", refused: "refused" };

export const bar = (done, total) => h("span.ls-bar" + (total ? "" : ".endless"), null, h("span", { style: `width:${total ? Math.min(100, (100 * done) / total) : 0}%` }));

/** The card of files on their way to the studio. */
export function uploadCard(upload, { goOn, leave }) {
  const words = upload.waiting ? "The connection broke; trying again" : `${bytes(upload.done)} of ${bytes(upload.total)}`;
  if (upload.lost) {
    return h("section.ls-problem", { id: "ls-upload-lost" }, h("h3", null, "The upload was interrupted"), h("p", null, `${upload.lost} ${plural(upload.count - upload.left, "file")} of ${number(upload.count)} arrived; it goes on where it broke off.`),
      h("div.ls-row", null, button("Go on", goOn, { kind: "primary", id: "ls-upload-on" }), button("Leave it", leave, { kind: "quiet" })));
  }
  return h("section.ls-running", { id: "ls-uploading" }, h("h3", null, upload.left ? `Receiving ${plural(upload.count, "file")}` : "Waiting for the running import"), bar(upload.done, upload.total),
    h("div.ls-inline", null, h("p.ls-muted", null, words), button("Stop", leave, { kind: "quiet", icon: "stop" })));
}

/** The result of the last import. `select(id)` shows a picture in the grid; `again()` repeats the source. */
export function createResults({ select, again }) {
  const card = h("div.ls-stack"), controls = h("div.ls-row"), table = h("div.ls-results-table");
  const node = h("section.ls-results", null, card, controls, table);
  let job = null, rows = [], next = 0, filter = "", unsent = [], drawn = "";
  const counts = { added: 0, already: 0, refused: 0 };

  function forget() { rows = []; next = 0; drawn = ""; for (const name of Object.keys(counts)) counts[name] = 0; for (const row of unsent) add(row); }
  function add(row) { rows.push(row); counts[row.result] += 1; }

  /** Take over the job as Python tells it, and read what is new in its table. */
  async function update(told) {
    if (!told) { job = null; forget(); draw(); return; }
    if (!job || job.id !== told.id) { job = told; filter = ""; forget(); }
    job = told;
    const asked = job.id, since = next;
    const found = await call("gathering.results", { project: state.project, job: asked, since }, { quiet: true });
    if (!job || asked !== job.id || since !== next) return; // another answer came first
    found.rows.forEach(add);
    next = found.next;
    draw();
  }

  function head() {
    if (!ENDED.includes(job.state)) {
      const waits = job.state === "queued";
      return h("section.ls-running", { id: "ls-import" }, h("h3", null, waits ? "Waiting for another job to end" : job.state === "stopping" ? "Stopping" : "Importing"), h("p.ls-muted.ls-ellipsis", { title: job.source }, `From ${job.source}`), bar(job.done, job.total),
        h("div.ls-inline", null, h("p.ls-muted.ls-ellipsis", null, job.total ? `${number(job.done)} of ${number(job.total)} · ${job.text}` : job.text || "Starting"),
          button("Stop", () => call("job.command", { project: state.project, group: "jobs", job: job.id, word: "stop" }), { icon: "stop", id: "ls-stop-import", kind: "quiet" })));
    }
    const on = job.again && button(job.state === "done" ? "Import again" : "Go on", again, { kind: job.state === "done" ? "quiet small" : "primary", icon: job.state === "done" ? "undo" : "play", id: "ls-again", title: "The same source once more; only what is new is added" });
    const from = h("p.ls-muted.ls-ellipsis", { title: job.source }, `From ${job.source}`);
    if (job.state === "failed" || job.state === "interrupted") {
      return h("section.ls-problem", { id: "ls-import" }, h("h3", null, job.state === "failed" ? "The import failed" : "The import was interrupted"), h("p", null, job.error || "Its process ended."), h("p.ls-muted", null, job.remedy || "What was taken is in the project. Go on to take the rest."), from, h("div.ls-row", null, on));
    }
    const found = job.captions ? `, ${plural(job.captions, "caption")} found` : "";
    return h("section", { id: "ls-import" }, h("div.ls-import-head", null, h("h3", null, job.state === "stopped" ? "Stopped" : `Done${found}`), on), from);
  }

  function draw() {
    if (!job) {
      fill(card, unsent.length ? null : h("div.ls-none-yet", null, icon("image", 26), h("p", null, "Nothing was imported yet. Drop pictures anywhere on this page.")));
      if (!unsent.length) { fill(controls); fill(table); return; }
    } else if (JSON.stringify(job) !== card.dataset.key) { card.dataset.key = JSON.stringify(job); fill(card, head()); }
    const key = `${filter} ${rows.length}`;
    if (key === drawn) return;
    drawn = key;
    const choose = (name, title, count) => h("button.ls-segment" + (filter === name ? ".current" : ""), { type: "button", "aria-pressed": String(filter === name), "data-result": name || "all", onclick: () => { filter = name; draw(); } }, title, count > 0 && h("span.count", null, number(count)));
    fill(controls, rows.length > 0 && h("div.ls-segments", { role: "group", "aria-label": "Which files" }, choose("", "All", rows.length), choose("added", "Added", counts.added), choose("already", "Already", counts.already), choose("refused", "Refused", counts.refused)),
      h("div.ls-fill"), rows.length > 0 && button(glyph(COPY), async () => { const all = pick(); await copy(all.map((row) => [row.name, WORDS[row.result], row.reason].join("\t")).join("\n")); toast(`${plural(all.length, "line")} copied`); }, { kind: "quiet small", title: "Copy the table as text", label: "Copy the table", id: "ls-copy-results" }));
    const shown = pick();
    const refused = shown.filter((row) => row.result === "refused");
    const taken = shown.filter((row) => row.result !== "refused");
    fill(table, refused.length > 0 && list("ls-refused", refused, (row) => [h("td", { title: row.name }, row.name), h("td", null, row.reason)], ["Refused", "Why"]),
      taken.length > 0 && list("ls-taken", taken.slice().reverse(), (row) => [h("td", { title: row.name }, row.id ? h("button.ls-link.ls-row-link", { type: "button", onclick: () => select(row.id) }, row.name) : row.name), h("td", null, WORDS[row.result])], ["File", "What became of it"]));
  }
  const pick = () => (filter ? rows.filter((row) => row.result === filter) : rows);
  function list(id, all, cells, titles) {
    return [h("table.ls-table", { id }, h("thead", null, h("tr", null, titles.map((title) => h("th", null, title)))), h("tbody", null, all.slice(0, SHOWN).map((row) => h("tr", null, cells(row))))),
      all.length > SHOWN && h("p.ls-muted", null, `and ${number(all.length - SHOWN)} more; Copy gives all`)];
  }
  return {
    node, update, draw,
    get counts() { return counts; },
    get running() { return Boolean(job) && !ENDED.includes(job.state); },
    /** Files that did not even arrive; they head the next table. */
    unsent(list) { unsent = list.map(({ name, reason }) => ({ name, result: "refused", reason, id: null })); if (!job || ENDED.includes(job.state)) { job = null; forget(); draw(); } },
    clear() { job = null; unsent = []; delete card.dataset.key; forget(); draw(); },
  };
}

/** Files that could not be taken, of all imports, until they can be or are forgotten. */
export function createQuarantine(changedCount) {
  const node = h("section.ls-quarantine");
  async function update() {
    const { rows, count } = await call("gathering.quarantine", { project: state.project });
    const forget = async (ids) => { await call("gathering.forget", { project: state.project, ids }); await update(); changedCount(); };
    if (!count) { fill(node, h("div.ls-none-yet", null, icon("check", 26), h("p", null, "Every file could be taken."))); return; }
    fill(node, h("div.ls-import-head", null, h("h3", null, `${plural(count, "file")} could not be taken`), button("Forget all", async () => { if (await confirm("Forget these files?", "Only the list is emptied; no file is touched.", "Forget all")) await forget(null); }, { kind: "quiet small", icon: "trash" })),
      h("p.ls-muted", null, "Mend a file and add it again: it then leaves this list by itself."),
      h("table.ls-table.ls-not-taken", { id: "ls-not-taken" }, h("thead", null, h("tr", null, h("th", null, "File"), h("th", null, "Why"), h("th", null, ""))), h("tbody", null, rows.slice(0, SHOWN).map((row) => h("tr", null,
        h("td", { title: `${row.name}\n${row.source}` }, row.name), h("td", null, row.reason), h("td", null, h("button.ls-close", { type: "button", "aria-label": `Forget ${row.name}`, title: "Forget", onclick: () => forget([row.id]).catch(() => {}) }, icon("close", 12))))))),
      count > SHOWN && h("p.ls-muted", null, `and ${number(count - SHOWN)} more`));
  }
  return { node, update };
}
