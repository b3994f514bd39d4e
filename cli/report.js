/* vera diff's page: sorting of the table of modules, and the histograms of the module that is
   chosen. All else stands in the page without this. */
"use strict";
(function () {
    const table = document.getElementById("modules");
    const one = document.getElementById("one");
    if (!table || !one)
        return;
    const body = table.tBodies[0];
    const heads = Array.from(table.tHead.rows[0].cells);
    const histograms = JSON.parse(document.getElementById("histograms").textContent);

    /* Sorting: what has no value comes last, whatever the order; equal ones stay as they are. */

    function keyOf(row, column, isNumber) {
        const cell = row.cells[column];
        if (!isNumber)
            return cell.textContent;
        return cell.dataset.v === "" ? null : Number(cell.dataset.v);
    }

    function order(x, y) {
        return x < y ? -1 : x > y ? 1 : 0;
    }

    function sortBy(column, descending) {
        const isNumber = heads[column].dataset.kind === "number";
        const sign = descending ? -1 : 1;
        const rows = Array.from(body.rows, function (row) {
            return { row: row, key: keyOf(row, column, isNumber) };
        });
        rows.sort(function (a, b) {
            if (a.key === null || b.key === null)
                return (a.key === null) - (b.key === null);
            return sign * order(a.key, b.key);
        });
        const sorted = document.createDocumentFragment();
        rows.forEach(function (entry) { sorted.appendChild(entry.row); });
        body.appendChild(sorted);
        heads.forEach(function (head) { head.removeAttribute("aria-sort"); });
        heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
    }

    function addSorting(head, column) {
        const button = document.createElement("button");
        button.type = "button";
        button.append.apply(button, Array.from(head.childNodes));
        head.append(button);
        button.addEventListener("click", function () {
            const now = head.getAttribute("aria-sort");
            const first = head.dataset.kind === "number" ? "ascending" : "descending";
            sortBy(column, now === null ? first === "ascending" : now === "ascending");
        });
    }

    /* The histograms of one module, drawn into a copy of those of all. */

    const figures = document.getElementById("all").cloneNode(true);
    figures.removeAttribute("id");
    one.lastElementChild.replaceWith(figures);

    function sum(bins) {
        return bins.reduce(function (total, bin) { return total + bin; }, 0);
    }

    function drawPanel(panel, bins) {
        const peak = Math.max.apply(null, bins.concat(0));
        let path = "M0 100";
        bins.forEach(function (bin, i) {
            path += "V" + (100 - 100 * bin / peak) + "H" + (i + 1);
        });
        panel.hidden = bins.length === 0;
        panel.querySelector("path").setAttribute("d", path + "V100Z");
        panel.querySelector(".count").textContent =
            sum(bins) + " values, at most " + peak + " in a bin";
    }

    function drawFigure(figure, histogram) {
        figure.querySelector(".low").textContent = Number(histogram[0].toPrecision(3));
        figure.querySelector(".high").textContent = Number(histogram[1].toPrecision(3));
        figure.querySelectorAll(".panel").forEach(function (panel) {
            drawPanel(panel, histogram[panel.dataset.side === "a" ? 2 : 3]);
        });
    }

    function mark(number, isChosen) {
        const row = document.getElementById("m" + number);
        const cell = document.querySelector("a.cell[href='#m" + number + "']");
        row.classList.toggle("chosen", isChosen);
        row.querySelector("button").setAttribute("aria-pressed", isChosen);
        cell.classList.toggle("chosen", isChosen);
    }

    let chosen = -1;

    function choose(number) {
        const row = document.getElementById("m" + number);
        if (chosen >= 0)
            mark(chosen, false);
        chosen = number;
        mark(number, true);
        one.firstElementChild.textContent = row.cells[0].textContent;
        figures.querySelectorAll("figure").forEach(function (figure) {
            drawFigure(figure, histograms[number][figure.dataset.vector === "d" ? 0 : 1]);
        });
        one.hidden = false;
    }

    function numberOf(id) {
        return Number(id.replace(/^#?m/, ""));
    }

    function addChoice(row) {
        const button = document.createElement("button");
        const cell = row.cells[0];
        button.type = "button";
        button.append.apply(button, Array.from(cell.childNodes));
        button.setAttribute("aria-pressed", "false");
        cell.append(button);
        row.addEventListener("click", function () { choose(numberOf(row.id)); });
    }

    heads.forEach(addSorting);
    Array.from(body.rows).forEach(addChoice);
    document.querySelectorAll("a.cell").forEach(function (cell) {
        cell.addEventListener("click", function () {
            choose(numberOf(cell.getAttribute("href")));
        });
    });
    if (body.rows.length)
        choose(numberOf(body.rows[0].id));
})();
