// What changed, from the node's event stream. Comes back by itself when the server restarts, and pauses while nobody looks at the page.
//   listen(change, again): change({study, kinds}) for each event; again() when something may have been missed.

const HIDDEN = 60_000, RETRY = 3_000;

export function listen(change, again) {
  const light = document.querySelector("[data-live]");
  let source = null, opened = false, waiting = 0;

  const show = (on) => {
    if (!light) return;
    light.hidden = false;
    light.dataset.state = on ? "on" : "off";
    const text = on ? light.dataset.liveOn : light.dataset.liveOff;
    if (light.textContent !== text) light.textContent = text;
  };
  const start = () => {
    clearTimeout(waiting);
    if (source) return;
    source = new EventSource("/events");
    source.addEventListener("open", () => {
      show(true);
      if (opened) again(); // what came between is fetched at once
      opened = true;
    });
    source.addEventListener("change", (event) => change(JSON.parse(event.data)));
    source.addEventListener("reset", again);
    source.addEventListener("error", () => {
      show(false);
      if (source?.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      stop();
      waiting = setTimeout(() => { again(); start(); }, RETRY);
    });
  };
  const stop = () => {
    clearTimeout(waiting);
    source?.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => {
    clearTimeout(waiting);
    if (document.hidden) waiting = setTimeout(stop, HIDDEN);
    else start();
  });
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", (event) => event.persisted && start());
  start();
}
