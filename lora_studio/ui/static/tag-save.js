// Texts of pictures on their way to the disk. Each save says what it replaces: when somebody else was there first, both
// texts are kept until one is chosen.
import { Failure } from "./core.js";
import { editPictures, pictures } from "./pictures.js";

const onDisk = new Map(); // "id/field" -> {text: what the studio holds, waiting: how many saves of it are on their way}
const conflicts = new Map(); // "id/field" -> {id, field, mine, theirs}
const key = (id, field) => `${id}/${field}`;
const tell = () => window.dispatchEvent(new CustomEvent("ls:pictures"));

/** The conflict of a picture, null when there is none. */
export const conflictOf = (id) => conflicts.get(key(id, "caption")) || conflicts.get(key(id, "prose")) || null;

/**
 * Write a text: shown at once, saved behind it. `base` is what its writer saw before. Resolves with the text as it is kept,
 * null when it was not written: `conflictOf` the picture then tells why, or the studio does not answer.
 */
export async function saveText(image, field, text, base = image[field]) {
  const name = key(image.id, field), project = pictures.project;
  if (text === image[field] && text === base) return text;
  if (!onDisk.has(name)) onDisk.set(name, { text: base, waiting: 0 });
  const known = onDisk.get(name);
  known.waiting += 1;
  try {
    const answer = await editPictures("tagging.caption", () => ({ id: image.id, field, text, before: known.text }), null, { ids: [image.id], values: { [field]: text } });
    if (answer.conflict === undefined) { known.text = answer.text; return answer.text; }
    if (project !== pictures.project) return null;
    conflicts.set(name, { id: image.id, field, mine: text, theirs: answer.conflict });
    const now = pictures.byId.get(image.id);
    if (now) now[field] = answer.conflict;
    tell();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
  } finally {
    known.waiting -= 1;
    if (!known.waiting) onDisk.delete(name);
  }
  return null;
}

/** End a conflict with one text; `text` null leaves what the other one wrote. */
export function settle(conflict, text) {
  conflicts.delete(key(conflict.id, conflict.field));
  const image = pictures.byId.get(conflict.id);
  if (text !== null && image) return saveText(image, conflict.field, text, conflict.theirs);
  tell();
  return null;
}
