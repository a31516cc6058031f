// Runs before the first paint, so that the stored theme does not flash in; modules run later.
try {
  const stored = localStorage.getItem("theme");
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
} catch {
  // a browser may forbid storage: the theme is then the system's
}
