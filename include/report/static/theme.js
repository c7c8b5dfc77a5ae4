// Follows the web UI's choice of light or dark, which it keeps in this origin's storage; "system" leaves it to the browser.
"use strict";

function followTheme() {
  let theme = null;
  try {
    theme = localStorage.getItem("theme");
  } catch {
    // Storage is blocked: the browser's own preference holds.
  }
  document.documentElement.dataset.theme = theme === "light" || theme === "dark" ? theme : "";
}

followTheme();
addEventListener("storage", followTheme);
