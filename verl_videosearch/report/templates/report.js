"use strict";
// The list stands before the episodes and their pictures are read; whatever is not there yet is
// tried again when more of the file has arrived. Blocks are unpacked when somebody asks for them.
const PART = 100; // entries of the list that are put on the page at a time
const find = (id) => document.getElementById(id);
const selects = [...document.querySelectorAll("#filters select")];
const search = find("search"), detail = find("detail"), list = find("list"), body = document.body;
const end = document.createElement("li"); // comes into view when more of the list is wanted
end.className = "end";
let rows = [], known = new Map(), shown = [], current = null, texts = null;
let asked = 0; // counts what was asked for: an answer to an older question is dropped

async function unpack(name) {
  const block = find(name);
  if (!block) return null;
  const bytes = Uint8Array.from(atob(block.textContent.trim()), (each) => each.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

async function filter() {
  const question = ++asked;
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length && !texts) texts = await readTexts();
  if (question !== asked) return;
  shown = rows.filter((row) => {
    const fits = selects.every((each) => !each.value || row.values[each.name] === each.value);
    const text = words.length ? (texts ? texts[row.number] : row.title.toLowerCase()) : "";
    return fits && words.every((word) => text.includes(word));
  });
  showList();
  count();
}

async function readTexts() {
  const text = await unpack("texts");
  return text === null ? null : text.split("\n");
}

function showList() {
  list.replaceChildren();
  list.scrollTop = 0;
  extendList(PART);
}

function extendList(wanted) {
  const first = list.children.length - (end.parentNode ? 1 : 0);
  const last = Math.min(wanted, shown.length);
  end.remove();
  for (const row of shown.slice(first, last)) list.append(row.element ??= draw(row));
  if (last < shown.length) list.append(end);
}

function draw(row) {
  const item = document.createElement("li"), link = document.createElement("a");
  link.href = "#" + encodeURIComponent(row.anchor);
  link.dataset.anchor = row.anchor;
  if (row === current) link.setAttribute("aria-current", "true");
  for (const [name, text] of [["sign", row.sign], ["title", row.title], ["order", row.order], ["sub", row.sub]]) {
    const part = document.createElement("span");
    part.className = name === "sign" ? `sign ${row.values.right}` : name;
    part.textContent = text;
    link.append(part);
  }
  item.append(link);
  return item;
}

function mark(row) {
  if (current && current.element) current.element.firstChild.removeAttribute("aria-current");
  current = row;
  const place = shown.indexOf(row);
  if (place < 0) return;
  const drawn = list.children.length - (end.parentNode ? 1 : 0);
  if (place >= drawn) extendList(place + PART);
  row.element.firstChild.setAttribute("aria-current", "true");
  row.element.scrollIntoView({ block: "nearest" });
}

function count() {
  const right = shown.filter((row) => row.values.right === "right").length;
  const wrong = shown.filter((row) => row.values.right === "wrong").length;
  const share = right + wrong ? `, ${Math.round(100 * right / (right + wrong))} % right` : "";
  const all = shown.length === rows.length;
  find("count").textContent = (all ? `${rows.length} episodes` : `${shown.length} of ${rows.length} episodes`) + share;
  find("clear").hidden = all;
}

const films = new Map();
function readFilm(name) {
  if (!films.has(name)) {
    const block = find(name);
    if (!block) return null;
    const lines = block.textContent.trim().split("\n").map((line) => line.split(" "));
    films.set(name, new Map(lines));
  }
  return films.get(name);
}

function showPictures() {
  let isWhole = true;
  for (const image of detail.querySelectorAll("img[data-film]:not([src])")) {
    const film = readFilm(image.dataset.film);
    if (film) image.src = "data:image/webp;base64," + film.get(image.dataset.index);
    else isWhole = false;
  }
  return isWhole;
}

// Show the current episode as far as it has arrived; true when nothing is missing.
let visible = null;
async function open(row) {
  if (row !== visible) {
    const markup = await unpack(row.pair);
    if (row !== current) return true; // somebody went on meanwhile
    if (markup === null) return false;
    visible = row;
    detail.innerHTML = markup; // of the template, in which all text is escaped
    const columns = [...detail.querySelectorAll(".column")];
    for (const column of columns) {
      column.classList.toggle("chosen", columns.length > 1 && column.dataset.anchor === row.anchor);
    }
    listOthers(row);
    find("stage").scrollTop = 0;
  }
  return showPictures();
}

function listOthers(row) {
  const others = rows.filter((each) => each.uid === row.uid && each.pair !== row.pair);
  if (!others.length) return;
  const line = document.createElement("p");
  line.className = "others";
  line.append("Other episodes of this pair:");
  for (const each of others.slice(0, 40)) {
    const link = document.createElement("a");
    link.href = "#" + encodeURIComponent(each.anchor);
    link.textContent = each.anchor;
    line.append(link);
  }
  detail.append(line);
}

// Go where the address says; the first episode where it says nothing.
async function follow() {
  const anchor = decode(location.hash.slice(1));
  const row = known.get(anchor);
  body.classList.toggle("open", Boolean(row));
  if (anchor && !row) find("count").textContent = `no episode is called ${anchor}`;
  const chosen = row || (anchor ? null : rows[0]);
  if (row) window.scrollTo(0, 0);
  if (!chosen) detail.setAttribute("aria-busy", "false");
  if (!chosen) return;
  detail.setAttribute("aria-busy", "true");
  mark(chosen);
  for (let isLast = false; !isLast;) {
    isLast = document.readyState !== "loading";
    if (await open(chosen)) break;
    await new Promise((done) => setTimeout(done, 60));
  }
  if (chosen !== current) return;
  detail.setAttribute("aria-busy", "false");
  performance.mark("episode shown");
}

function decode(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function step(by) {
  if (!shown.length) return;
  const place = shown.indexOf(current);
  const next = shown[Math.min(Math.max(place + by, 0), shown.length - 1)];
  location.hash = encodeURIComponent(next.anchor);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (document.activeElement !== body) document.activeElement.blur();
    else location.hash = "";
  } else if (event.target.matches("input, select, textarea")) {
    return;
  } else if (event.key === "/") {
    event.preventDefault();
    location.hash && matchMedia("(max-width: 60rem)").matches && (location.hash = "");
    search.focus();
  } else if (event.key === "j" || event.key === "ArrowRight") {
    step(1);
  } else if (event.key === "k" || event.key === "ArrowLeft") {
    step(-1);
  }
}

function clear() {
  search.value = "";
  for (const each of selects) each.value = "";
  filter();
}

async function begin() {
  if (!("DecompressionStream" in window)) {
    detail.textContent = "This page needs a browser of 2023 or later.";
    return;
  }
  rows = JSON.parse(await unpack("index"));
  rows.forEach((row, number) => { row.number = number; });
  known = new Map(rows.map((row) => [row.anchor, row]));
  await filter();
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some((each) => each.isIntersecting)) return;
    extendList(list.children.length - 1 + PART);
    watch.unobserve(end); // an end that stays in view is told of once; asked anew, it is told again
    watch.observe(end);
  });
  watch.observe(end);
  for (const each of selects) each.addEventListener("change", filter);
  search.addEventListener("input", filter);
  find("clear").addEventListener("click", clear);
  find("next").addEventListener("click", (event) => { event.preventDefault(); step(1); });
  find("previous").addEventListener("click", (event) => { event.preventDefault(); step(-1); });
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", press);
  await follow();
}

begin();
