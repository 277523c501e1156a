// What every page does besides being read: popups close, ages grow, forms ask before what cannot be taken back, messages pass.
// Pages import from here: toast(text), csrf(), $$(selector, root).

export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

export const csrf = () => document.querySelector('meta[name="csrf-token"]')?.content ?? "";

export function toast(text, seconds = 6) {
  const place = document.querySelector("[data-toasts]");
  if (!place) return;
  const shown = document.createElement("div");
  shown.className = "toast";
  shown.textContent = text;
  place.append(shown);
  setTimeout(() => shown.remove(), seconds * 1000);
}

// How long ago, in the page's language; the server wrote the first one.
const UNITS = [["year", 31557600], ["month", 2629800], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const count = new Map(UNITS.map(([unit]) => [unit, new Intl.NumberFormat(document.documentElement.lang, { style: "unit", unit, unitDisplay: "short" })]));

export function ages(root = document) {
  const now = Date.now() / 1000;
  for (const time of $$("time[data-at]", root)) {
    const seconds = Math.max(now - Number(time.dataset.at), 1);
    const [unit, size] = UNITS.find(([, size]) => seconds >= size * 1.2) ?? UNITS.at(-1);
    const text = count.get(unit).format(Math.round(seconds / size));
    if (time.textContent !== text) time.textContent = text;
  }
}

document.addEventListener("click", (event) => {
  for (const popup of $$("details.popup[open]")) if (!popup.contains(event.target)) popup.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const popup of $$("details.popup[open]")) {
    popup.open = false;
    popup.querySelector("summary").focus();
  }
});
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});
ages();
setInterval(ages, 10_000);
