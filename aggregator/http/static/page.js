// SPDX-License-Identifier: Apache-2.0
// Brings the parts of the page marked data-live up to date while somebody looks. Without this file
// the page is whole: it is made by the server, and sorted and filtered by links and a form.
"use strict";

const EVERY = 5000; // ms; as far apart as the points of the graphs
let paused = false;
let turn = 0;
let since = null; // no answer has come

async function refresh() {
	const mine = ++turn;
	const lost = document.getElementById("lost");
	try {
		const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(15000) });
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
		since = null;
		lost.textContent = "";
	} catch (error) {
		since ??= new Date().toLocaleTimeString();
		lost.textContent = `No answer since ${since}: ${error.message}. `;
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
	const sort = document.querySelector("input[name=sort]");
	if (sort)
		sort.value = link.dataset.key;
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
