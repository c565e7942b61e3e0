// The open project's pictures: one copy for all tabs, kept in step with the revision on disk.
import { call, changed, state, toast } from "./core.js";

export const pictures = { project: "", revision: -1, all: [], byId: new Map(), flags: {}, findings: [], loaded: false };
let columns = [];
let loading = null;
const tell = () => window.dispatchEvent(new CustomEvent("ls:pictures"));

function toObject(row) {
  const image = {};
  columns.forEach((name, index) => { image[name] = row[index]; });
  return image;
}

/** Load them when the project changed or somebody else changed the pictures. */
export async function load(force = false) {
  const project = state.project;
  if (!project) return;
  if (pictures.project !== project) Object.assign(pictures, { project, revision: -1, all: [], byId: new Map(), flags: {}, findings: [], loaded: false });
  const seen = state.overview && state.overview.project && state.overview.project.slug === project ? state.overview.project.revision : null;
  if (!force && pictures.loaded && (seen === null || seen <= pictures.revision)) return;
  if (loading) return loading;
  loading = (async () => {
    try {
      const found = await call("pictures", { project });
      if (project !== state.project) return;
      columns = found.columns;
      pictures.all = found.rows.map(toObject);
      pictures.byId = new Map(pictures.all.map((image) => [image.id, image]));
      pictures.revision = found.revision;
      pictures.loaded = true;
      tell();
      await audit();
    } finally { loading = null; }
  })();
  return loading;
}

/** The judge's flags and findings; asked for after every load and some time after a decision. */
export async function audit() {
  const project = state.project;
  const { flags, findings } = await call("curation.audit", { project });
  if (project !== pictures.project) return;
  pictures.flags = flags;
  pictures.findings = findings;
  tell();
}
let later = 0;

/** Call a function that answers with changed rows, and take these over. */
export async function editPictures(name, args, message) {
  const project = state.project;
  const answer = await call(name, { project, ...args });
  if (project !== pictures.project) return answer;
  for (const row of answer.rows || []) {
    const image = toObject(row);
    if (pictures.byId.has(image.id)) Object.assign(pictures.byId.get(image.id), image);
  }
  pictures.revision = Math.max(pictures.revision, answer.revision || 0);
  tell();
  changed();
  clearTimeout(later);
  later = setTimeout(audit, 500);
  if (message) toast(message(answer));
  return answer;
}

window.addEventListener("ls:revision", () => load());
window.addEventListener("ls:overview", () => { if (["gathering", "curation", "tagging"].includes(state.step)) load(); });
window.addEventListener("ls:go", () => { if (["gathering", "curation", "tagging"].includes(state.step)) load(); });
