// What the captions say, kept in step with the pictures: the tags of each, how many have each, and words to complete with.
import { split } from "./chips.js";
import { pictures, used } from "./pictures.js";

const OFFERED = 8;
const parsed = new Map(); // id -> {caption, tags, keys, counted}
const found = new Map(); // tag in small letters -> {name, key, count}
let project = "", ordered = null, vocabulary = [];

function enter(image, old) {
  const counted = used(image);
  if (old && old.counted) for (const key of old.keys) take(key);
  const tags = old && old.caption === image.caption ? old.tags : split(image.caption), keys = tags.map((tag) => tag.toLowerCase());
  if (counted) {
    keys.forEach((key, place) => {
      const word = found.get(key);
      if (word) word.count += 1; else found.set(key, { name: tags[place], key, count: 1 });
    });
  }
  parsed.set(image.id, { caption: image.caption, tags, keys, counted });
  ordered = null;
}
function take(key) {
  const word = found.get(key);
  word.count -= 1;
  if (!word.count) found.delete(key);
}
const entry = (image) => {
  const known = parsed.get(image.id);
  if (!known || known.caption !== image.caption) enter(image, known);
  return parsed.get(image.id);
};

export const tagIndex = {
  /** Take over what changed since the last time; only what did is parsed. */
  sweep() {
    if (project !== pictures.project || parsed.size > pictures.all.length) { parsed.clear(); found.clear(); project = pictures.project; ordered = null; }
    for (const image of pictures.all) {
      const known = parsed.get(image.id);
      if (!known || known.caption !== image.caption || known.counted !== used(image)) enter(image, known);
    }
    if (parsed.size > pictures.all.length) { parsed.clear(); found.clear(); this.sweep(); } // some are no longer there
  },
  /** Tags of a picture in order. */
  tags: (image) => entry(image).tags,
  /** The same in small letters. */
  keys: (image) => entry(image).keys,
  has: (image, key) => entry(image).keys.includes(key),
  /** All tags of the used pictures, the most frequent first: [{name, key, count}]. */
  counts() {
    if (!ordered) ordered = [...found.values()].sort((a, b) => b.count - a.count || (a.key < b.key ? -1 : 1));
    return ordered;
  },
  count: (key) => (found.get(key) || { count: 0 }).count,
  /** Words that the tagger and the lists know: [name, category, the usual name where this is another one]. */
  setVocabulary(words) { vocabulary = words.map(([name, category, alias]) => ({ name, key: name.toLowerCase(), count: 0, category, alias })); },
  /** What begins like `asked`, then what holds it; the project's own words first. */
  words(asked) {
    const begin = [], hold = [], key = asked.toLowerCase();
    for (const list of [tagIndex.counts(), vocabulary]) {
      for (const word of list) {
        const place = word.key.indexOf(key);
        if (place < 0 || (list === vocabulary && found.has(word.key))) continue;
        if (place === 0) begin.push(word); else if (hold.length < OFFERED) hold.push(word);
        if (begin.length === OFFERED) return begin;
      }
    }
    return [...begin, ...hold].slice(0, OFFERED);
  },
};
