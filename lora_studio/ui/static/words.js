// What the judge's flags and the decisions are called on the page.
import { pictures } from "./pictures.js";

export const DECISIONS = { new: "To decide", keep: "Kept", maybe: "Maybe", reject: "Rejected" };
const LEVEL = { keep: "good", maybe: "maybe", reject: "bad" };
const SHORT = {
  blurred: "blurred", duplicate: "copy", near_duplicate: "copy", too_small: "too small", aspect: "odd shape", dark: "dark", bright: "too bright",
  flat: "low contrast", blocky: "JPEG blocks", borders: "borders", lettering: "lettering", no_face: "no face", many_faces: "several faces",
  small_face: "small face", outlier: "unlike the rest", low_aesthetic: "plain", asymmetric: "do not flip",
};

export const flags = (image) => pictures.flags[image.id] || [];
export const short = (name) => SHORT[name] || name.replaceAll("_", " ");

/** The marks of a picture in the grid: its decision, what was found, how it is cut. */
export function badges(image) {
  const shown = image.decision === "new" ? [] : [{ text: DECISIONS[image.decision].toLowerCase(), level: LEVEL[image.decision] }];
  const found = new Map(flags(image).map((flag) => [short(flag.name), flag]));
  for (const [text, flag] of found) shown.push({ text: text === "copy" && flag.other ? `copy of #${flag.other}` : text, level: flag.bad ? "warn" : "info", title: flag.text });
  const crops = (image.crop ? 1 : 0) + (image.more_crops || []).length;
  if (crops) shown.push({ text: crops > 1 ? `${crops} crops` : "cropped", level: "info" });
  if (image.mask) shown.push({ text: "mask", level: "info" });
  return shown;
}
