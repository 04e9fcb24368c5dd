// SPDX-License-Identifier: Apache-2.0
// Brings the parts of the page marked data-live up to date while somebody looks. Without this file
// the page is whole: it is made by the server, and sorted and filtered by links and a form.
"use strict";

const EVERY = 5000; // ms; as far apart as the points of the graphs
let paused = false;
let turn = 0;

async function refresh() {
	const mine = ++turn;
	const lost = document.getElementById("lost");
	try {
		const answer = await fetch(location.href, { cache: "no-store" });
		if (!answer.ok)
			throw new Error(`the aggregator answers ${answer.status}`);
		const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
		if (mine !== turn)
			return; // sorted anew meanwhile
		for (const old of document.querySelectorAll("[data-live]")) {
			const next = fresh.getElementById(old.id);
			if (!next)
				continue;
			const held = old.contains(document.activeElement)
				? document.activeElement.getAttribute("data-key") : null;
			old.replaceWith(next);
			if (held)
				next.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
		}
		lost.textContent = "";
	} catch (error) {
		lost.textContent = `No answer since ${new Date().toLocaleTimeString()}: ${error.message}. `;
	}
}

async function tick() {
	if (!paused && !document.hidden)
		await refresh();
	setTimeout(tick, EVERY);
}

// Sorting and filtering keep the place on the page.
document.addEventListener("click", (event) => {
	const link = event.target.closest("thead a");
	if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button)
		return;
	event.preventDefault();
	history.replaceState(null, "", link.href);
	refresh();
});

const pause = document.createElement("button");
pause.type = "button";
pause.textContent = "Pause";
pause.addEventListener("click", () => {
	paused = !paused;
	pause.textContent = paused ? "Go on" : "Pause";
});
document.getElementById("controls").append(pause);
setTimeout(tick, EVERY);
