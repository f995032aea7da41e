// The page works without this script. With it, keys move, searches answer as you type, and commands are copied.
"use strict";
(() => {
  document.documentElement.classList.add("js");

  const visible = (element) => element.getClientRects().length > 0;
  const typing = () => {
    const at = document.activeElement;
    return at !== null && at.matches("input, select, textarea");
  };

  // --- keys ---------------------------------------------------------------------------------------------------------

  const step = (links, by) => {
    if (links.length === 0) return false;
    const at = links.indexOf(document.activeElement);
    const next = at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + by));
    links[next].focus();
    return true;
  };

  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing()) {
      document.activeElement.blur();
      return;
    }
    if (event.key === "ArrowDown" && typing() && document.activeElement.matches("[data-live]")) {
      if (step([...document.querySelectorAll("[data-list] a")].filter(visible), 1)) event.preventDefault();
      return;
    }
    if (typing()) return;
    if (event.key >= "1" && event.key <= "5") {
      const link = document.querySelector(`[data-key="${event.key}"]`);
      if (link !== null) link.click();
    } else if (event.key === "/") {
      const search = document.querySelector("[type=search], #when");
      if (search !== null) {
        search.focus();
        event.preventDefault();
      }
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const links = [...document.querySelectorAll("[data-list] a")].filter(visible);
      const within = links.includes(document.activeElement);
      if ((within || document.activeElement === document.body || document.activeElement.id === "main") && step(links, event.key === "ArrowDown" ? 1 : -1)) event.preventDefault();
    } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const bars = [...document.querySelectorAll("[data-bars] a")];
      const within = bars.includes(document.activeElement);
      if ((within || document.activeElement === document.body) && step(bars, event.key === "ArrowRight" ? 1 : -1)) event.preventDefault();
    }
  };
  document.addEventListener("keydown", keys);

  // --- copying ------------------------------------------------------------------------------------------------------

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (button === null) return;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = button.dataset.done;
      setTimeout(() => { button.textContent = before; }, 1500);
    } catch {
      const chosen = document.createRange();
      chosen.selectNodeContents(button.previousElementSibling);
      getSelection().removeAllRanges();
      getSelection().addRange(chosen);
    }
  });

  for (const choice of document.querySelectorAll("[data-submit]")) {
    choice.addEventListener("change", () => choice.form.submit());
  }

  // --- search as you type -------------------------------------------------------------------------------------------

  const search = document.querySelector("[data-live]");
  if (search !== null) {
    let asked = null;
    let timer = 0;
    const ask = () => {
      if (asked !== null) asked.abort();
      const address = new URL(search.form.action);
      for (const [name, value] of new FormData(search.form)) {
        if (value !== "") address.searchParams.set(name, value);
      }
      const request = new XMLHttpRequest();
      asked = request;
      request.open("GET", address);
      request.responseType = "document";
      request.addEventListener("load", () => {
        const found = request.response === null ? null : request.response.getElementById("list");
        const list = document.getElementById("list");
        if (found === null || list === null) return;
        list.replaceChildren(...found.childNodes);
        history.replaceState(null, "", address);
      });
      request.send();
    };
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(ask, 120);
    });
  }

  if (location.hash === "#side") {
    const side = document.getElementById("side");
    if (side !== null) side.focus({ preventScroll: matchMedia("(min-width: 900px)").matches });
  }
})();
