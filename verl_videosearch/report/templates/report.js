"use strict";
// The list is there before the episodes and their pictures are parsed; whatever is not there yet is
// tried again when more of the file has arrived.
const find = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll("#list a")];
const selects = [...document.querySelectorAll("#filters select")];
const search = find("search"), detail = find("detail"), body = document.body;
const known = new Map(rows.map((row) => [row.dataset.anchor, row]));
const texts = () => (texts.kept ??= find("texts") ? find("texts").textContent.split("\n") : null);
let shown = rows, current = null;

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean).map(escape);
  const content = words.length ? texts() : null;
  shown = rows.filter((row) => {
    const fits = selects.every((each) => !each.value || row.dataset[each.name] === each.value);
    const text = words.length ? (content ? content[row.dataset.row] : row.textContent.toLowerCase()) : "";
    return fits && words.every((word) => text.includes(word));
  });
  const kept = new Set(shown);
  for (const row of rows) row.parentNode.hidden = !kept.has(row);
  count();
}

function escape(word) { // as the page's own text is
  const codes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;" };
  return word.replace(/[&<>"']/g, (each) => codes[each]);
}

function count() {
  const right = shown.filter((row) => row.dataset.right === "right").length;
  const wrong = shown.filter((row) => row.dataset.right === "wrong").length;
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

function open(row) {
  const block = find(row.dataset.pair);
  if (!block) return false;
  if (current) current.removeAttribute("aria-current");
  current = row;
  row.setAttribute("aria-current", "true");
  detail.innerHTML = block.textContent; // markup of the template, in which all text is escaped
  for (const column of detail.querySelectorAll(".column")) {
    const isChosen = column.dataset.anchor === row.dataset.anchor;
    column.classList.toggle("chosen", isChosen && detail.querySelectorAll(".column").length > 1);
  }
  listOthers(row);
  row.scrollIntoView({ block: "nearest" });
  find("stage").scrollTop = 0;
  return showPictures();
}

function listOthers(row) {
  const others = rows.filter((each) => each.dataset.uid === row.dataset.uid && each.dataset.pair !== row.dataset.pair);
  if (!others.length) return;
  const line = document.createElement("p");
  line.className = "others";
  line.append("Other episodes of this pair:");
  for (const each of others.slice(0, 40)) {
    const link = document.createElement("a");
    link.href = each.getAttribute("href");
    link.textContent = each.dataset.anchor;
    line.append(link);
  }
  detail.append(line);
}

function follow() {
  const anchor = decode(location.hash.slice(1));
  const row = known.get(anchor);
  body.classList.toggle("open", Boolean(row));
  if (anchor && !row) {
    find("count").textContent = `no episode is called ${anchor}`;
  }
  const chosen = row || (anchor ? null : rows[0]);
  if (chosen && row) window.scrollTo(0, 0);
  return chosen ? open(chosen) : true;
}

function decode(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function step(by) {
  if (!shown.length) return;
  const place = shown.indexOf(current);
  const next = shown[Math.min(Math.max(place + by, 0), shown.length - 1)];
  location.hash = next.getAttribute("href").slice(1);
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

let isWhole = false;
function retry() {
  if (!isWhole) isWhole = current ? showPictures() : follow();
  if (!isWhole && document.readyState === "loading") setTimeout(retry, 60);
}

for (const each of selects) each.addEventListener("change", filter);
search.addEventListener("input", filter);
find("clear").addEventListener("click", clear);
find("next").addEventListener("click", (event) => { event.preventDefault(); step(1); });
find("previous").addEventListener("click", (event) => { event.preventDefault(); step(-1); });
window.addEventListener("hashchange", () => { isWhole = follow(); retry(); });
document.addEventListener("keydown", press);
document.addEventListener("DOMContentLoaded", () => { isWhole = current ? showPictures() : follow(); });
count();
retry();
