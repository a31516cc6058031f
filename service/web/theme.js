// Runs before anything is drawn, so that a chosen theme does not flash in: everything else is in modules, which wait.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // storage may be forbidden: then the system's theme holds
}
