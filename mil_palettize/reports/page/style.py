"""How the page looks: light or dark as the system is, one column on a phone."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--page:#f6f6f4;--card:#fff;--text:#1b1d20;--muted:#575c64;--line:#d9dbdf;--accent:#2a62c4;
--equal:#2a62c4;--close:#17704a;--noticeable:#8a5700;--far:#b3261e;--warn:#fff4d6}
@media (prefers-color-scheme:dark){:root{--page:#131416;--card:#1c1e21;--text:#e8e9eb;--muted:#a7acb4;--line:#34373d;
--accent:#82b1ff;--equal:#82b1ff;--close:#62d297;--noticeable:#f2ba55;--far:#ff8d80;--warn:#35290d}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1.5rem 1rem 3rem;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums}
h1,h2,h3,p,ul,ol,dl,dd,figure{margin:0;padding:0}
h1{font-size:clamp(1.25rem,3.2vw,1.75rem);line-height:1.25}
h2{font-size:1.25rem;margin:2.25rem 0 .5rem}
h3{font-size:1rem;line-height:1.35}
h1,h3,.tiles,aside,th,p{overflow-wrap:anywhere}
bdi{display:-webkit-inline-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;overflow:hidden;max-width:100%;
vertical-align:bottom;text-align:left;overflow-wrap:anywhere}
small,.muted{color:var(--muted);font-size:.875rem;font-weight:400}
.arrow{color:var(--accent)}
.large{font-size:1.625rem;font-weight:650;line-height:1.2}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.75rem;margin-top:1rem}
.tiles li,.card,.weights,.scroll,section>figure{background:var(--card);border:1px solid var(--line);
border-radius:.625rem}
.tiles li{display:flex;flex-direction:column;padding:.75rem 1rem;list-style:none;min-width:0;font-size:.9375rem}
.what,dt{color:var(--muted);font-size:.8125rem}
aside{margin-top:.75rem;padding:.75rem 1rem;border:1px solid var(--line);border-left:.3rem solid var(--accent);
border-radius:.625rem;background:var(--card)}
aside.warning{border-left-color:var(--noticeable);background:var(--warn)}
aside ul{padding-left:1.1rem}
.chip{display:inline-block;padding:0 .55rem;border:1px solid;border-radius:1rem;font-size:.8125rem;font-weight:600}
.chip.equal{color:var(--equal)}.chip.close{color:var(--close)}.chip.noticeable{color:var(--noticeable)}
.chip.far{color:var(--far)}
.outputs,.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:.75rem;
margin-top:.75rem}
.card{padding:.875rem 1rem;min-width:0}
.outputs .card{border-left:.3rem solid var(--line)}
.card.equal{border-left-color:var(--equal)}.card.close{border-left-color:var(--close)}
.card.noticeable{border-left-color:var(--noticeable)}.card.far{border-left-color:var(--far)}
.headline{display:flex;flex-wrap:wrap;align-items:center;gap:.25rem .75rem;margin:.25rem 0 .5rem}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(7.5rem,1fr));gap:.4rem .75rem}
dd{font-weight:600}
.weights{margin-top:.75rem;padding:.25rem 1rem}
.weights li{display:grid;grid-template-columns:minmax(0,1fr) 12rem 5rem 8.5rem 10.5rem;gap:.1rem 1rem;
align-items:center;padding:.35rem 0;border-bottom:1px solid var(--line);font-size:.875rem}
.weights li:last-child{border:0}
.weights b,.weights span{text-align:right;white-space:nowrap}
.bar{height:.6rem;border-radius:.3rem;background:var(--line);overflow:hidden}
.bar i{display:block;height:100%;border-radius:.3rem;background:var(--accent)}
.card figure.course{margin-top:.75rem;padding-left:3.75rem}
details{margin-top:.75rem}
summary{cursor:pointer;padding:.4rem 0;color:var(--accent);font-weight:600}
section>figure{margin-top:.75rem;padding:1rem 1.25rem .5rem 4rem}
section h3{margin-top:0}figure+h3{margin-top:1.25rem}
.scroll{overflow-x:auto;margin-top:.5rem}
table{width:100%;border-collapse:collapse;font-size:.875rem}
th,td{padding:.45rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
tbody tr:last-child>*{border:0}
thead th{color:var(--muted);font-weight:600;white-space:normal;overflow-wrap:normal}
th:first-child,td:first-child{width:1%}
th:nth-child(2){text-align:left;white-space:normal;min-width:9rem;font-weight:600}
th small{display:block}
.rank{display:inline-block;width:1.35rem;border-radius:1rem;background:var(--far);color:var(--card);text-align:center;
font-size:.75rem;font-weight:700;line-height:1.35rem}
@media (max-width:52rem){.weights li{grid-template-columns:4.25rem 1fr auto;padding:.6rem 0}
.weights bdi,.weights .bar{grid-column:1/-1}.weights b{text-align:left}}
footer{margin-top:2rem;overflow-wrap:anywhere}
@media (max-width:36rem){.tiles{grid-template-columns:1fr 1fr}.tiles li{padding:.6rem .75rem}
.tiles .large{font-size:1.125rem}
table:not(.losses) :is(th,td):nth-child(3),.losses :is(th,td):nth-child(5){display:none}th,td{padding:.45rem .4rem}}
"""
