// Files of the user's computer on their way to the studio: out of a drop, the clipboard or a dialog, in pieces, with patience.
import { Failure, call } from "./core.js";

const SMALLEST = 64 * 2 ** 10; // bytes of a piece
const WORKERS = 4;
const TRIES = 8; // in a row without a byte getting through: about a minute
let most = 8 * 2 ** 20; // bytes that one request may hold, as far as is known: a tunnel may take less
let piece = most;
let passed = 0; // pieces in a row that got through
function got() { passed += 1; if (passed % 8 === 0) piece = Math.min(most, piece * 2); }
function narrower(size) { most = piece = Math.max(SMALLEST, Math.min(piece, Math.floor(size / 2))); }
function smaller(size) { passed = 0; if (size === piece) piece = Math.max(SMALLEST, Math.floor(piece / 2)); }

export const VIDEO = /\.(mp4|mkv|mov|webm|avi|m4v|wmv|flv|mpe?g|ts)$/i;

/** Files of a drop, folders unfolded: {found: [{file, name}], unread: [{name, reason}]}. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.length) return { found: [...transfer.files].map((file) => ({ file, name: file.name })), unread: [] };
  const found = [], unread = [];
  const asked = (ask) => new Promise((resolve, reject) => ask(resolve, reject));
  async function walk(entry) {
    const name = entry.fullPath.replace(/^\//, "");
    try {
      if (entry.isFile) { found.push({ file: await asked((yes, no) => entry.file(yes, no)), name }); return; }
      const reader = entry.createReader();
      for (;;) { // a reader gives at most 100 entries a call
        const some = await asked((yes, no) => reader.readEntries(yes, no));
        if (!some.length) break;
        for (const child of some) await walk(child);
      }
    } catch { unread.push({ name, reason: "the browser cannot read it" }); }
  }
  for (const entry of entries) await walk(entry);
  return { found, unread };
}

/** Files on the clipboard. Pictures without a name of their own get the time as one. */
export function pasted(clipboard) {
  const time = new Date().toISOString().slice(0, 19).replace("T", " ").replaceAll(":", "-");
  return [...clipboard.files].map((file, index) => {
    const end = file.name.split(".").pop();
    const unnamed = /^image\.\w+$/.test(file.name);
    return { file, name: unnamed ? `pasted ${time}${index ? ` ${index + 1}` : ""}.${end}` : file.name };
  });
}

/** Addresses in a text that holds nothing else, one a line. */
export function addresses(text) {
  const lines = text.split(/\r?\n/).map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
  return lines.length && lines.every((line) => /^https?:\/\/\S+$/i.test(line)) ? lines : [];
}

export class Lost extends Error {}
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/**
 * An upload that can be gone on with: `await run()` resolves once all is there, and throws Lost while the connection is
 * gone; run() again then goes on at the byte where it broke off. `told()` is called whenever a number changed.
 */
export function createUpload(project, found, told) {
  const queue = [...found];
  const stopper = new AbortController();
  const upload = {
    batch: "", count: found.length, left: found.length, done: 0, waiting: false, lost: "", refused: [],
    total: found.reduce((sum, item) => sum + item.file.size, 0), run, cancel: () => stopper.abort(),
    get cancelled() { return stopper.signal.aborted; },
  };

  async function run() {
    upload.lost = "";
    upload.batch = upload.batch || await call("gathering.begin", { project });
    await Promise.all(Array.from({ length: WORKERS }, work));
    if (upload.lost && !upload.cancelled) throw new Lost(upload.lost);
    return upload;
  }

  async function work() {
    while (queue.length && !upload.lost && !upload.cancelled) {
      const item = queue.shift();
      try {
        await send(item);
        upload.left -= 1;
      } catch (error) {
        if (error instanceof Lost) { queue.unshift(item); upload.lost = error.message; }
        else if (!upload.cancelled) { upload.refused.push({ name: item.name, reason: error.message }); upload.left -= 1; }
      }
      told();
    }
  }

  async function send(item) {
    const { file, name } = item;
    let tries = 0;
    for (;;) {
      const from = item.sent || 0;
      const size = piece;
      const body = file.slice(from, from + size);
      const { here, refusal, narrow } = await post(name, from, body);
      if (refusal) throw new Error(refusal);
      if (here !== null) {
        upload.done += Math.min(here, file.size) - from;
        item.sent = here;
        if (here > from || here >= file.size) { tries = 0; upload.waiting = false; got(); }
        told();
        if (here >= file.size) return;
        if (here > from) continue;
      }
      if (upload.cancelled) throw new Error("cancelled");
      if (!(await readable(file))) throw new Error("it was changed or moved on your computer meanwhile; drop it again");
      if (narrow && body.size <= SMALLEST) throw new Error("something between here and the studio takes no pieces of 64 kB");
      if (narrow) { narrower(body.size); continue; }
      smaller(size);
      tries += 1;
      if (tries > TRIES) throw new Lost("The connection to the studio is gone.");
      upload.waiting = true;
      told();
      await pause(Math.min(10_000, 200 * 2 ** tries));
    }
  }

  /** One piece: how much of the file is there now, null when it did not get through; `narrow`: it was too large. */
  async function post(name, offset, body) {
    let answer = null;
    try {
      const address = `/upload/${upload.batch}?name=${encodeURIComponent(name)}&offset=${offset}`;
      answer = await fetch(address, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body, signal: stopper.signal });
      if (answer.ok) return { here: (await answer.json()).size };
      if (answer.status === 400) { const { error } = await answer.json(); return { refusal: `${error.message} ${error.remedy}` }; }
    } catch { answer = null; }
    const passing = !answer || [408, 413, 429].includes(answer.status) || answer.status >= 500;
    return passing ? { here: null, narrow: Boolean(answer) && answer.status === 413 } : { refusal: `the studio answered with error ${answer.status}` };
  }
  return upload;
}

async function readable(file) {
  try { await file.slice(0, 1).arrayBuffer(); return true; } catch { return false; }
}

/** Put text on the clipboard; also where the page is not on a secure address. */
export async function copy(text) {
  try { await navigator.clipboard.writeText(text); return; } catch { /* no permission, or not a secure address */ }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Failure({ message: "The browser does not let the page copy." });
}
