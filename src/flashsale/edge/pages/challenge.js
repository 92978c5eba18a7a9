// Hands the widget the address of its challenge, and its solution to whoever has opened this page (same origin only).
const widget = document.querySelector("altcha-widget");
const link = new URLSearchParams(location.search).get("for");
const WORDS = { verifying: "Working…", verified: "Done.", error: "That did not work: try again." };

$altcha.algorithms.set("PBKDF2/SHA-256", () => new Worker("/challenge/pbkdf2.js"));
widget.setAttribute("challenge", "/api/v1/challenge" + (link ? "?for=" + encodeURIComponent(link) : ""));
widget.addEventListener("statechange", ({ detail }) => {
  document.getElementById("outcome").textContent = WORDS[detail.state] ?? "";
});
widget.addEventListener("verified", ({ detail }) => {
  document.getElementById("solution").value = detail.payload;
  document.getElementById("solved").hidden = false;
  for (const other of [window.opener, window.parent]) {
    if (other && other !== window) other.postMessage({ flashsaleChallenge: detail.payload }, location.origin);
  }
});
