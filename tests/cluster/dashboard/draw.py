# SPDX-License-Identifier: Apache-2.0
"""Draws a Grafana dashboard's panels as one HTML page of SVG, where no Grafana is to be had. It knows the panel types
and options that metrics/dashboard/godwit.json uses, and fails on others."""

import html
import math
import time

COLORS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#8ab8ff", "#fade2a", "#e02f44",
          "#96d98d", "#c0d8ff", "#ffb357", "#ca95e5", "#19730e", "#1f60c4"]
UNIT = 58     # width of one of Grafana's 24 columns, in pixels
ROW = 36      # height of one of its rows
STYLE = """body{background:#111217;color:#ccccdc;font:13px sans-serif;margin:16px;width:1400px}
.row{position:absolute;font-weight:bold;font-size:14px;padding-top:8px}
.panel{position:absolute;background:#181b1f;border:1px solid #2a2d33;border-radius:3px;overflow:hidden;box-sizing:border-box}
.title{padding:6px 8px 0;font-weight:500;white-space:nowrap}.stat{text-align:center;font-size:38px;padding-top:18px}
.legend{padding:0 8px;font-size:10px;line-height:13px;height:27px;overflow:hidden}.legend i{display:inline-block;width:10px;height:3px;margin:3px 4px 3px 8px}
table{font-size:12px;margin:8px;border-spacing:18px 6px;text-align:left}svg text{fill:#8e8e99;font-size:10px}"""


def amount(value, unit):
    """A value as Grafana would write it."""
    if unit == "s":
        for factor, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
        return "0 s"
    if unit in ("bytes", "Bps"):
        power = min(4, int(math.log(abs(value), 1024))) if abs(value) >= 1 else 0
        return f"{value / 1024 ** power:.3g} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}{'/s' if unit == 'Bps' else ''}"
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g} K" if abs(value) < 1e6 else f"{value / 1e6:.4g} M"
    return f"{value:.3g}" + {"reqps": " req/s", "ops": " /s"}.get(unit, "")


def threshold_color(steps, value):
    color = "#73bf69"
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            color = {"green": "#73bf69", "red": "#f2495c"}[step["color"]]
    return color


def legend_name(template, labels):
    for key, value in labels.items():
        template = template.replace("{{%s}}" % key, value)
    return template.replace("{{", "").replace("}}", "").strip() or "value"


def stat(panel, series):
    value = sum(v for _, v in series) if series else None
    defaults = panel["fieldConfig"]["defaults"]
    color = threshold_color(defaults["thresholds"]["steps"], value) if value is not None else "#8e8e99"
    text = "No data" if value is None else str(round(value)) if defaults.get("decimals") == 0 else amount(value, defaults["unit"])
    return f'<div class="stat" style="color:{color}">{html.escape(text)}</div>'


def table(panel, series):
    transform = panel["transformations"][0]["options"]
    hidden = transform["excludeByName"]
    names = sorted({k for labels, _ in series for k in labels if not hidden.get(k)},
                   key=lambda n: transform["indexByName"].get(n, 99))
    head = "".join(f"<th>{html.escape(transform['renameByName'].get(n, n))}</th>" for n in names)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(labels.get(n, ''))}</td>" for n in names) + "</tr>"
                   for labels, _ in sorted(series, key=lambda s: s[0].get("instance", "")))
    return f"<table><tr>{head}</tr>{rows}</table>"


def stacked(lines):
    """Each line on top of those before it, over the union of their times."""
    base, out = {}, []
    for name, points in lines:
        floor = [(at, base.get(at, 0.0)) for at, _ in points]
        for at, value in points:
            base[at] = base.get(at, 0.0) + value
        out.append((name, [(at, base[at]) for at, _ in points], floor))
    return out


def timeseries(panel, lines, begin, end, width, height):
    """lines: [(name, [(time, value)])]"""
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit = defaults["custom"], defaults["unit"]
    plot_height = height - 74
    if not lines:
        return '<div class="stat" style="font-size:18px;color:#8e8e99">No data</div>'
    shapes = stacked(lines) if custom["stacking"]["mode"] == "normal" else [(n, p, None) for n, p in lines]
    values = [v for _, points, _ in shapes for _, v in points]
    top, bottom = max(values), min(defaults.get("min", min(values)), min(values))
    top = top if top > bottom else bottom + 1
    left, right = 62, width - 10
    x = lambda at: left + (at - begin) / (end - begin) * (right - left)
    y = lambda value: 8 + (top - value) / (top - bottom) * plot_height
    out = [f'<svg width="{width}" height="{plot_height + 26}">']
    for i in range(5):
        value = bottom + (top - bottom) * i / 4
        out.append(f'<line x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#2a2d33"/>'
                   f'<text x="{left - 5}" y="{y(value) + 3:.1f}" text-anchor="end">{html.escape(amount(value, unit))}</text>')
    times = 4 if width > 400 else 2
    for i in range(times):
        at = begin + (end - begin) * (i + 0.5) / times
        out.append(f'<text x="{x(at):.0f}" y="{plot_height + 22}" text-anchor="middle">{time.strftime("%H:%M:%S", time.localtime(at))}</text>')
    for index, (_, points, floor) in enumerate(shapes):
        color = COLORS[index % len(COLORS)]
        path = " ".join(f"{x(at):.1f},{y(v):.1f}" for at, v in points)
        back = floor if floor is not None else [(points[0][0], bottom), (points[-1][0], bottom)]
        area = path + " " + " ".join(f"{x(at):.1f},{y(v):.1f}" for at, v in reversed(back))
        out.append(f'<polygon points="{area}" fill="{color}" opacity="{custom["fillOpacity"] / 100}"/>'
                   f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{custom["lineWidth"]}"/>')
        if len(points) == 1:
            out.append(f'<circle cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="2" fill="{color}"/>')
    legend = "".join(f'<i style="background:{COLORS[i % len(COLORS)]}"></i>{html.escape(name)}' for i, (name, _) in enumerate(lines))
    return "".join(out) + f'</svg><div class="legend">{legend}</div>'


def page(dashboard, instant, ranged, seconds):
    """The page, and its height in pixels. instant(expression) and ranged(expression) ask Prometheus."""
    end = time.time()
    out, bottom = [], 0
    for panel in dashboard["panels"]:
        box = panel["gridPos"]
        left, top, width, height = box["x"] * UNIT, box["y"] * ROW, box["w"] * UNIT - 6, box["h"] * ROW - 6
        bottom = max(bottom, top + height)
        if panel["type"] == "row":
            out.append(f'<div class="row" style="left:{left}px;top:{top}px">{html.escape(panel["title"])}</div>')
            continue
        if panel["type"] == "stat":
            body = stat(panel, instant(panel["targets"][0]["expr"]))
        elif panel["type"] == "table":
            body = table(panel, instant(panel["targets"][0]["expr"]))
        elif panel["type"] == "timeseries":
            lines = [(legend_name(t["legendFormat"], labels), [(at, v) for at, v in points if not math.isnan(v)])
                     for t in panel["targets"] for labels, points in ranged(t["expr"])]
            body = timeseries(panel, sorted((n, p) for n, p in lines if p), end - seconds, end, width, height)
        else:
            raise ValueError(f"cannot draw a panel of type {panel['type']}")
        out.append(f'<div class="panel" style="left:{left}px;top:{top}px;width:{width}px;height:{height}px">'
                   f'<div class="title">{html.escape(panel["title"])}</div>{body}</div>')
    return (f'<!doctype html><meta charset="utf-8"><title>{html.escape(dashboard["title"])}</title><style>{STYLE}</style>'
            f'<h2>{html.escape(dashboard["title"])}</h2><div style="position:relative;height:{bottom}px">{"".join(out)}</div>', bottom + 110)
