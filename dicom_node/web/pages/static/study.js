// The study page: takes in what happened while one looks, shows key images with and without what was found in them, and leaves a form alone that one fills.
import { $$, ages, toast } from "./site.js";
import { listen } from "./events.js";

const body = document.querySelector("[data-live-body]");
let waiting = 0, busy = false;

const inUse = () => body.querySelector("details[open]") || body.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")
  || $$("input[type=text], textarea, select", body).some((field) => field.value && field.value !== field.defaultValue && field.tagName !== "SELECT");

async function refresh() {
  if (inUse()) { offer(); return; }
  if (busy) { later(); return; }
  busy = true;
  try {
    const answer = await fetch(body.dataset.source, { headers: { Accept: "text/html", "X-By-Itself": "1" } });
    if (answer.redirected || answer.status === 401 || answer.status === 404) { location.reload(); return; } // signed out, or deleted
    const fresh = await answer.text();
    if (answer.status >= 500) later(3000);
    else if (inUse()) offer(); // somebody began to fill a form meanwhile
    else if (answer.ok) { body.innerHTML = fresh; dress(); }
  } catch { later(3000); /* the server is away */ } finally { busy = false; }
}
const later = (after = 400) => { clearTimeout(waiting); waiting = setTimeout(refresh, after); };

function offer() {
  if (document.querySelector("[data-offer]")) return;
  const note = document.createElement("p");
  note.className = "notice";
  note.dataset.offer = "";
  note.setAttribute("role", "status");
  const text = document.createElement("span"), button = document.createElement("button");
  text.textContent = `${body.dataset.changed} `;
  button.className = "button small";
  button.textContent = body.dataset.reload;
  button.addEventListener("click", () => location.reload());
  note.append(text, button);
  body.before(note);
}

function dress() {
  ages(body);
  for (const image of $$("[data-thumbnail]", body)) {
    const none = () => { image.parentElement.classList.add("none"); image.remove(); };
    if (image.complete && !image.naturalWidth && image.currentSrc) none();
    else image.addEventListener("error", none);
  }
  for (const button of $$("[data-overlay]", body)) {
    const links = $$("[data-key-images] a", button.closest(".pictures"));
    button.hidden = false;
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      for (const link of links) link.querySelector("img").src = on ? link.getAttribute("href") : link.dataset.plain;
    });
  }
}

dress();
// After a form the page comes back at the place that it was about, where the word that it was done may be out of sight.
if (location.hash) for (const done of $$("[data-problem] .notice.good")) toast(done.textContent.trim());
if (location.search.includes("done=")) history.replaceState(null, "", location.pathname + location.hash);
listen(({ study, kinds }) => { if (study === body.dataset.study || (!study && kinds.includes("deleted"))) later(); }, () => later());
