// The worklist, alive: rows come and move as things happen, search as one types, and all of it from the keyboard.
import { $$, ages, csrf, toast } from "./site.js";
import { listen } from "./events.js";

const place = document.getElementById("worklist");
const news = document.querySelector("[data-news]");
const form = document.querySelector("[data-search]");
const keys = document.getElementById("keys");
const title = document.title;
const served = new WeakMap(); // a row > its HTML as the server sent it
const rowsOf = (root) => $$("tbody > tr", root);

// --- what the server says, put in place without taking anything out of the reader's hands

function put(html, { quietly = false } = {}) {
  const fresh = new DOMParser().parseFromString(html, "text/html").querySelector("[data-fragment]");
  if (!fresh) return;
  const held = grip();
  const before = new Map(rowsOf(place).map((row) => [row.id, row]));
  const old = place.querySelector("tbody"), body = fresh.querySelector("tbody");
  if (old && body) {
    const changed = rowsOf(fresh).filter((row) => served.get(before.get(row.id)) !== row.outerHTML);
    const all = rowsOf(fresh).map((row) => {
      if (!changed.includes(row)) return before.get(row.id);
      served.set(row, row.outerHTML);
      return row;
    });
    if (!quietly) tell(changed, before);
    for (const selector of [".quick", "thead"]) swap(place.querySelector(selector), fresh.querySelector(selector));
    const pager = place.querySelector(".pager"), next = fresh.querySelector(".pager");
    if (pager && next) swap(pager, next);
    else if (pager) pager.remove();
    else if (next) place.firstElementChild.append(next);
    if (all.some((row, at) => old.children[at] !== row) || old.children.length !== all.length) old.replaceChildren(...all);
    Object.assign(place.firstElementChild.dataset, fresh.dataset);
  } else {
    place.replaceChildren(fresh);
    remember();
    if (!quietly) tell(rowsOf(place), before);
  }
  ages(place);
  entitle();
  release(held);
}

const swap = (old, fresh) => old && fresh && old.outerHTML !== fresh.outerHTML && old.replaceWith(fresh);
const remember = () => rowsOf(place).forEach((row) => served.set(row, row.outerHTML));

function tell(changed, before) {
  const order = { routine: 0, urgent: 1, critical: 2 };
  let said = false;
  for (const row of changed) {
    const was = before.get(row.id);
    if (!was || was.dataset.level !== row.dataset.level) row.classList.add("fresh");
    if (row.dataset.level === "routine" || (was && order[was.dataset.level] >= order[row.dataset.level])) continue;
    const words = [news.dataset[row.dataset.level], row.querySelector(".open").textContent.trim(), row.querySelector(".alert")?.textContent.trim()];
    if (!said) toast(words.filter(Boolean).join(" · "));
    said = true;
  }
  if (!said && changed.length) news.textContent = news.dataset.list; // a passing message says itself
}

function entitle() {
  const criticals = Number(place.firstElementChild.dataset.criticals);
  document.title = criticals ? `(${criticals}) ${title}` : title;
}

// The focus stays where it was: on the same thing of the same study.
function grip() {
  const row = document.activeElement?.closest("#worklist tr[id]");
  const link = document.activeElement?.closest("#worklist a[href]");
  return row ? { id: row.id, key: document.activeElement.dataset.key } : link ? { href: link.getAttribute("href") } : null;
}

function release(held) {
  if (!held || document.activeElement !== document.body) return;
  const row = held.id && document.getElementById(held.id);
  const target = held.href ? $$("a[href]", place).find((link) => link.getAttribute("href") === held.href)
    : row && ((held.key && row.querySelector(`[data-key="${held.key}"]`)) || row.querySelector(".open"));
  target?.focus({ preventScroll: true });
}

// --- asking

// What the reader chose last, and what stands in the list. Whoever asks anew asks for what was chosen:
// a change that comes while a filter is being fetched would put the old list back otherwise.
let wanted = place.firstElementChild.dataset.rows, shown = wanted;
let asking = null, due = 0, last = 0, again = false;

async function load(options = {}) {
  asking?.abort();
  const own = (asking = new AbortController());
  const url = wanted, began = performance.now();
  try {
    const headers = { Accept: "text/html", ...(options.byItself && { "X-By-Itself": "1" }) };
    const answer = await fetch(url, { signal: own.signal, headers });
    if (answer.redirected || answer.status === 401) return location.reload(); // signed out: the page asks who is there
    if (answer.ok) {
      put(await answer.text(), { quietly: options.quietly || url !== shown }); // another list is no news
      shown = url;
    } else if (answer.status >= 500) later();
  } catch (error) {
    if (error instanceof TypeError) later(); // the server is away
    else if (error.name !== "AbortError") throw error;
  } finally {
    if (asking === own) asking = null;
    last = performance.now() - began;
  }
}

let away = 0;
function later() {
  clearTimeout(away);
  away = setTimeout(refresh, 3000);
}

function refresh() {
  if (due) return;
  // At once after a silence; under a stream of changes as often as the server answers easily.
  due = setTimeout(async () => {
    await load({ byItself: true });
    due = 0;
    if (again) refresh();
    again = false;
  }, Math.max(60, 3 * last));
}
const changed = () => { if (due && asking) again = true; else refresh(); };
listen(changed, changed);

function go(url, { push = true } = {}) {
  if (push) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  wanted = `/worklist/rows${url.search}`;
  return load({ quietly: true });
}
window.addEventListener("popstate", () => location.reload());

// --- search as one types; filters and orders without a new page

let typed = 0;
function search(wait) {
  clearTimeout(typed);
  typed = setTimeout(() => {
    const url = new URL("/", location.href);
    for (const [name, value] of new FormData(form)) if (value && !(name === "sort" && value === "urgency") && !(name === "order" && value === "desc")) url.searchParams.set(name, value);
    go(url, { push: false });
  }, wait);
}
form.addEventListener("input", () => search(150));
form.addEventListener("submit", (event) => { event.preventDefault(); search(0); });
form.querySelector("[data-go]").hidden = true;

function adopt(url) {
  for (const name of ["show", "sort", "order"]) {
    let field = form.elements[name];
    if (!field) {
      field = Object.assign(document.createElement("input"), { type: "hidden", name });
      form.append(field);
    }
    field.value = url.searchParams.get(name) ?? "";
  }
  for (const name of ["q", "modality", "since"]) form.elements[name].value = url.searchParams.get(name) ?? "";
}

place.addEventListener("click", async (event) => {
  if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  const soft = event.target.closest("a[data-soft]");
  if (soft) {
    event.preventDefault();
    const url = new URL(soft.href);
    adopt(url);
    await go(url);
    if (url.searchParams.has("after") || url.searchParams.has("before")) window.scrollTo({ top: 0 });
    return;
  }
  if (event.target.closest("a, button, input, label") || String(getSelection())) return;
  event.target.closest("tr[id]")?.querySelector(".open").click();
});

// --- who reads what

document.addEventListener("submit", async (event) => {
  if (!event.target.matches("[data-reading-form]") || event.defaultPrevented) return;
  event.preventDefault();
  const data = new URLSearchParams(new FormData(event.target, event.submitter));
  const answer = await fetch(event.target.action, { method: "POST", body: data, redirect: "manual", headers: { "X-CSRF-Token": csrf(), Accept: "application/json" } });
  if (answer.status >= 400) toast((await answer.json().catch(() => ({}))).error ?? answer.statusText);
  await load({ quietly: true });
});

// --- keyboard

const current = () => document.activeElement?.closest("#worklist tr[id]");

function step(by) {
  const rows = rowsOf(place), at = rows.indexOf(current());
  const row = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1)];
  row?.querySelector(".open").focus();
  row?.scrollIntoView({ block: "nearest" });
}

const actions = {
  j: () => step(1),
  k: () => step(-1),
  v: () => current()?.querySelector(".viewer")?.click(),
  r: () => current()?.querySelector("[data-reading-form] button")?.click(),
  "/": () => { form.elements.q.focus(); form.elements.q.select(); },
  "?": () => keys.showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || keys.open) return;
  const writing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && event.target === form.elements.q) {
    form.elements.q.value = "";
    search(0);
    form.elements.q.blur();
  } else if (!writing && actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  }
});
const help = document.querySelector("[data-keys]");
help.hidden = false;
help.addEventListener("click", () => keys.showModal());

remember();
entitle();
