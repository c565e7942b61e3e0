// The open project's pictures: one copy for all tabs, kept in step with the revision on disk.
import { Failure, call, changed, state, toast } from "./core.js";

/** What the judge says of them, as curation.audit answers; empty until it has. */
const UNKNOWN = { flags: {}, findings: [], proposals: {}, groups: [], gauges: {}, grade: null, coverage: [] };
const NONE = { look: null, revision: -1, all: [], byId: new Map(), loaded: false, audited: false, ...UNKNOWN };
const WITH_PICTURES = ["gathering", "curation", "tagging"];
const LARGE = 2000; // from so many on, the judge waits for a longer pause

export const pictures = { project: "", ...NONE };
let columns = [];
let loading = null;
const tell = () => window.dispatchEvent(new CustomEvent("ls:pictures"));

/** Whether a picture will be trained on: not when rejected or set aside. */
export const used = (image) => image.decision === "new" || image.decision === "keep";
/** The suggestion for a picture that nobody has decided on, null otherwise: {decision, reason}. */
export const proposal = (image) => (image.decision === "new" && pictures.proposals[image.id]) || null;

function toObject(row) {
  const image = {};
  columns.forEach((name, index) => { image[name] = row[index]; });
  return image;
}

/** Load them when the project changed or somebody else changed the pictures. */
export async function load(force = false) {
  const project = state.project;
  if (!project) return;
  if (pictures.project !== project) Object.assign(pictures, { project, ...NONE, byId: new Map() });
  const seen = state.overview && state.overview.project && state.overview.project.slug === project ? state.overview.project.revision : null;
  if (!force && pictures.loaded && (seen === null || seen <= pictures.revision)) return;
  if (loading) return loading;
  loading = (async () => {
    try {
      let found, before;
      do { // what was edited here, also while they were being read, is on its way: read after it
        before = sending;
        await before;
        found = await call("pictures", { project });
        if (project !== state.project) return;
      } while (before !== sending);
      columns = found.columns;
      if (found.rows.length !== pictures.all.length) pictures.look = null; // there may be new ones to look at
      pictures.all = found.rows.map(toObject);
      pictures.byId = new Map(pictures.all.map((image) => [image.id, image]));
      pictures.revision = found.revision;
      pictures.loaded = true;
      tell();
      judge();
    } finally { loading = null; }
  })();
  return loading;
}

/** The judge's flags, findings and suggestions; asked for after every load and some time after a decision. */
export async function audit() {
  const project = state.project, mine = ++audits;
  const found = await call("curation.audit", { project });
  if (project !== pictures.project || mine !== audits) return; // of two at once the later one counts
  Object.assign(pictures, UNKNOWN, found, { audited: true });
  tell();
}

/** Have the pictures judged, not waited for: at once where the judge's words are shown, else when such a tab is opened. */
function judge() {
  stale = state.step === "tagging";
  if (!stale) audit().catch((error) => { if (!(error instanceof Failure)) throw error; });
}
let stale = false;
let later = 0;
let audits = 0;
let sending = Promise.resolve();
const pending = new Map(); // id -> edits on their way: only the last one's answer counts

/**
 * Call a function that answers with changed rows, and take these over. `ahead`: {ids, values} shown at once, before the
 * answer, and taken back when it is refused; `values` may be a function of the picture. Edits are sent one after the other,
 * in the order in which they were made; where `args` is a function, it is asked when its edit is sent.
 */
export function editPictures(name, args, message, ahead = null) {
  const project = state.project;
  const before = ahead ? ahead.ids.map((id) => [pictures.byId.get(id), { ...pictures.byId.get(id) }]) : [];
  for (const [image] of before) { Object.assign(image, typeof ahead.values === "function" ? ahead.values(image) : ahead.values); pending.set(image.id, (pending.get(image.id) || 0) + 1); }
  if (ahead) tell();
  const sent = sending.then(() => call(name, { project, ...(typeof args === "function" ? args() : args) }));
  const done = sent.then((answer) => taken(project, answer, before, message), (error) => {
    settle(before);
    if (error instanceof Failure && project === pictures.project) {
      for (const [image, was] of before) if (!pending.has(image.id)) Object.assign(image, was);
      tell();
    }
    throw error;
  });
  sending = done.catch(() => {}); // the next one is sent when this one's answer is known here
  return done;
}

/** When all edits that were made so far have been answered. */
export const allSent = () => sending;

function settle(before) {
  for (const [image] of before) {
    const left = pending.get(image.id) - 1;
    if (left) pending.set(image.id, left); else pending.delete(image.id);
  }
}

function taken(project, answer, before, message) {
  settle(before);
  if (project !== pictures.project) return answer;
  for (const row of answer.rows || []) {
    const image = toObject(row);
    if (pictures.byId.has(image.id) && !pending.has(image.id)) Object.assign(pictures.byId.get(image.id), image);
  }
  put(answer.values || []);
  pictures.revision = Math.max(pictures.revision, answer.revision || 0);
  follow();
  if (message) toast(message(answer));
  return answer;
}

/** Values as they are now: [[id, name of the column, value]]; of pictures with edits on their way the last answer counts. */
function put(values) {
  for (const [id, name, value] of values) if (pictures.byId.has(id) && !pending.has(id)) pictures.byId.get(id)[name] = value;
}

/** Take over what an undo or redo answers; where more has changed than it tells of, the next look at the project reads all. */
export function takeOver(project, { values, revision }) {
  if (!values || project !== pictures.project || !pictures.loaded || revision !== pictures.revision + 1) return;
  put(values);
  pictures.revision = revision;
  follow();
}

function follow() {
  tell();
  clearTimeout(later);
  later = setTimeout(() => { changed(); judge(); }, pictures.all.length > LARGE ? 3000 : 400);
}

window.addEventListener("ls:revision", () => load());
window.addEventListener("ls:overview", () => { if (WITH_PICTURES.includes(state.step)) load(); });
window.addEventListener("ls:go", () => { if (!WITH_PICTURES.includes(state.step)) return; load(); if (stale && pictures.loaded && pictures.project === state.project) judge(); });
