#include "study/approx.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A map shades a cell by the class its number falls into: CLASSES of them, cut by bounds. */
enum { CLASSES = 9, BOUNDS = CLASSES - 1 };

typedef enum shading { SHADE_UP, SHADE_COOL, SHADE_BOTH } shading;

typedef struct measure {
    const char *title, *note;
    double (*value)(const approx_cell *c);
    void (*text)(double x, char buf[24]);
    shading shading;
    double bounds[BOUNDS]; /* bounds[0] = 0: cut evenly on a logarithmic scale by the data */
    bool best;             /* the least of a row is marked */
    bool doubted;          /* faded where the variance is not resolved */
} measure;

/* ---- numbers ----------------------------------------------------------------------------------
 */

static double value_error(const approx_cell *c)
{
    return c->error[APPROX_MEDIAN];
}

static double value_ratio(const approx_cell *c)
{
    return c->ratio;
}

static double value_time(const approx_cell *c)
{
    return c->ns;
}

/* At most four characters where that says enough: .063, 1.82, 18.2, 182, 2e3. */
static void text_short(double x, char buf[24])
{
    if (x < 0.9995)
        snprintf(buf, 24, "%.3f", x);
    else
        snprintf(buf, 24, "%.*f", x < 9.995 ? 2 : x < 99.95 ? 1 : 0, x);
    if (x < 0.9995)
        memmove(buf, buf + 1, strlen(buf));
    if (x >= 1000 || x < 0.001)
        snprintf(buf, 24, isinf(x) ? "∞" : x == 0 ? "0" : "%.0e", x);
}

static void text_signed(double x, char buf[24])
{
    double size = fabs(x);
    bool whole = size >= 9.95 || size == floor(size);
    snprintf(buf, 24, "%s%.*f", x < 0 ? "−" : "+", whole ? 0 : 1, size);
}

static void text_whole(double x, char buf[24])
{
    snprintf(buf, 24, "%.0f", x);
}

static const measure measures[] = {
    {"Error of attention",
     "|o − exact| / |exact|, median over the draws",
     value_error,
     text_short,
     SHADE_UP,
     {0},
     true,
     false},
    {"Bias of the kernel",
     "in standard errors; exact matrices have none, a large number is then a heavy tail",
     approx_z,
     text_signed,
     SHADE_BOTH,
     {-10, -5, -3, -1, 1, 3, 5, 10},
     false,
     false},
    {"Variance of the kernel",
     "by that of independent rows, closed form; faded where tails are too heavy to tell",
     value_ratio,
     text_short,
     SHADE_BOTH,
     {0.1, 0.25, 0.5, 0.8, 1.25, 2, 4, 10},
     false,
     true},
    {"Time",
     "ns for a token of a head, forward, one thread, fastest draw",
     value_time,
     text_whole,
     SHADE_COOL,
     {0},
     false,
     false},
};
enum { MEASURES = sizeof measures / sizeof *measures };

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Rounded to two digits, so that a legend can say it. */
static double rounded(double x)
{
    double unit = pow(10, floor(log10(x)) - 1);
    return round(x / unit) * unit;
}

/* The bounds of a measure for all sizes together, so that their maps can be compared. */
static void find_bounds(const approx_lab *lab, const measure *m, double bounds[BOUNDS])
{
    const int64_t all = (int64_t)lab->sizes * lab->features * lab->matrices;
    memcpy(bounds, m->bounds, sizeof m->bounds);
    double *x = m->bounds[0] == 0 ? malloc((size_t)all * sizeof *x) : NULL;
    int64_t n = 0;
    for (int64_t i = 0; x && i < all; i++) {
        double value = m->value(&lab->cell[i]);
        if (lab->cell[i].measured && isfinite(value) && value > 0)
            x[n++] = value;
    }
    if (n > 0) {
        qsort(x, (size_t)n, sizeof *x, ascending);
        double low = x[n / 50], high = fmax(x[n - 1 - n / 20], 1.2 * low);
        for (int i = 0; i < BOUNDS; i++)
            bounds[i] = rounded(low * pow(high / low, (i + 1) / (double)CLASSES));
    }
    free(x);
}

static int class_of(const double bounds[BOUNDS], double value)
{
    int k = 0;
    while (k < BOUNDS && value >= bounds[k])
        k++;
    return k;
}

/* ---- pieces -----------------------------------------------------------------------------------
 */

static void write_escaped(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            fputc(*text, out);
        }
}

static void write_legend(FILE *out, const measure *m, const double bounds[BOUNDS])
{
    char low[24], high[24];
    fprintf(out, "<div class='legend k%d'>", m->shading);
    for (int k = 0; k < CLASSES; k++) {
        if (k > 0)
            m->text(bounds[k - 1], low);
        if (k < BOUNDS)
            m->text(bounds[k], high);
        fprintf(out, "<i class=h%d>%s%s%s</i>", k, k == 0 ? "&lt; " : low,
                k == 0        ? ""
                : k == BOUNDS ? " +"
                              : " – ",
                k == BOUNDS ? "" : high);
    }
    fputs("</div>\n", out);
}

/* Everything known of a cell, for the pointer that rests on it. */
static void write_tip(FILE *out, const approx_lab *lab, int s, int f, int m)
{
    const approx_cell *c = approx_at(lab, s, f, m);
    fprintf(out, " title='%s × %s, m = %lld&#10;", lab->feature[f]->name, lab->matrix[m]->name,
            (long long)lab->size[s]);
    if (!c->measured) {
        write_escaped(out, c->why);
        fputc('\'', out);
        return;
    }
    fprintf(out, "error %.3g (%.3g to %.3g)&#10;bias %+.2f ± %.2f %%&#10;variance %.3g",
            c->error[APPROX_MEDIAN], c->error[APPROX_LOW], c->error[APPROX_HIGH], 100 * c->bias,
            100 * c->bias_error, c->variance);
    if (isfinite(c->ratio))
        fprintf(out, ", %.3g of independent rows%s", c->ratio,
                approx_resolved(c) ? "" : " (heavy tails)");
    fprintf(out, "&#10;%.0f ns'", c->ns);
}

static void write_cell(FILE *out, const approx_lab *lab, const measure *q,
                       const double bounds[BOUNDS], const int at[3], bool best)
{
    const approx_cell *c = approx_at(lab, at[0], at[1], at[2]);
    double value = c->measured ? q->value(c) : (double)NAN;
    char text[24];
    if (!c->measured) {
        fputs("<td class=x", out);
    } else if (isnan(value)) {
        fputs("<td class=none", out);
        snprintf(text, sizeof text, "·");
    } else {
        bool doubt = q->doubted && !approx_resolved(c);
        fprintf(out, "<td class='h%d%s%s'", class_of(bounds, value), best ? " best" : "",
                doubt ? " u" : "");
        q->text(value, text);
    }
    write_tip(out, lab, at[0], at[1], at[2]);
    fprintf(out, ">%s</td>", c->measured ? text : "");
}

static void write_map(FILE *out, const approx_lab *lab, const measure *q,
                      const double bounds[BOUNDS], int s)
{
    fprintf(out, "<figure><figcaption><b>%s</b><span>%s</span></figcaption>\n", q->title, q->note);
    fprintf(out, "<table class='map k%d'>\n<tr><th></th>", q->shading);
    for (int m = 0; m < lab->matrices; m++)
        fprintf(out, "<th class=top><span>%s</span></th>", lab->matrix[m]->name);
    fputs("</tr>\n", out);
    for (int f = 0; f < lab->features; f++) {
        double least = INFINITY;
        for (int m = 0; m < lab->matrices && q->best; m++) {
            const approx_cell *c = approx_at(lab, s, f, m);
            least = c->measured ? fmin(least, q->value(c)) : least;
        }
        fprintf(out, "<tr><th>%s</th>", lab->feature[f]->name);
        for (int m = 0; m < lab->matrices; m++) {
            const approx_cell *c = approx_at(lab, s, f, m);
            write_cell(out, lab, q, bounds, (const int[]){s, f, m},
                       c->measured && lab->matrices > 1 && q->value(c) == least);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table>\n", out);
    write_legend(out, q, bounds);
    fputs("</figure>\n", out);
}

/* ---- the head of the page ---------------------------------------------------------------------
 */

static void write_best(FILE *out, const approx_lab *lab, int s)
{
    int best_f = -1, best_m = -1;
    for (int f = 0; f < lab->features; f++)
        for (int m = 0; m < lab->matrices; m++)
            if (approx_at(lab, s, f, m)->measured &&
                (best_f < 0 || value_error(approx_at(lab, s, f, m)) <
                                   value_error(approx_at(lab, s, best_f, best_m))))
                best_f = f, best_m = m;
    if (best_f < 0)
        return;
    const approx_cell *c = approx_at(lab, s, best_f, best_m);
    fprintf(out,
            "<div class=big><b>%s × %s</b>nearest to exact at m = %lld"
            "<small>error %.3g, %.0f ns</small></div>\n",
            lab->feature[best_f]->name, lab->matrix[best_m]->name, (long long)lab->size[s],
            value_error(c), c->ns);
}

static void write_cards(FILE *out, const approx_lab *lab)
{
    const approx_data *d = &lab->data;
    int64_t all = (int64_t)lab->sizes * lab->features * lab->matrices, measured = 0;
    for (int64_t i = 0; i < all; i++)
        measured += lab->cell[i].measured;
    fputs("<section class=cards>\n", out);
    for (int s = 0; s < lab->sizes; s++)
        write_best(out, lab, s);
    fprintf(out,
            "<div><b>%.3f</b>error of uniform attention<small>the plain mean of the values"
            "</small></div>\n",
            lab->uniform);
    if (isfinite(lab->softmax_ns))
        fprintf(out,
                "<div><b>%.0f ns</b>exact softmax<small>a token of a head, one thread, %lld "
                "keys</small></div>\n",
                lab->softmax_ns, (long long)d->S);
    fprintf(out, "<div><b>%.2f</b>spread of the logits<small>mean |x+y|² %.1f</small></div>\n",
            lab->logit_spread, lab->z2);
    fprintf(out,
            "<div><b>%lld</b>measured<small>%lld do not go together, %.0f s in all</small>"
            "</div>\n</section>\n",
            (long long)measured, (long long)(all - measured), lab->seconds);
}

static const char style[] =
    ":root{--bg:#fff;--card:#f5f6f8;--ink:#1c2330;--soft:#667085;--line:#dfe3e9;--hatch:#c3cad4;"
    "--c0:#1f5fcf;--c1:#b5440c;color-scheme:light dark}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1d222c;--ink:#e6e9ef;"
    "--soft:#98a2b3;--line:#2b323e;--hatch:#3b4452;--c0:#7fabff;--c1:#ff9a4d}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);"
    "font:15px/1.5 system-ui,sans-serif}main{max-width:1640px;margin:0 auto;"
    "padding:2rem 1.25rem}\n"
    "h1{font-size:1.55rem;margin:0;letter-spacing:-.01em}h2{font-size:1.2rem;margin:2.2rem 0 0;"
    "border-top:1px solid var(--line);padding-top:1rem}\n"
    "header p{color:var(--soft);margin:.2rem 0 1.5rem}\n"
    ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:.75rem}\n"
    ".cards div{background:var(--card);border-radius:10px;padding:.8rem 1rem}\n"
    ".cards b{display:block;font-size:1.25rem;font-variant-numeric:tabular-nums}\n"
    ".cards .big{box-shadow:inset 3px 0 var(--c0)}.cards small{display:block;color:var(--soft)}\n"
    ".maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,700px),1fr));"
    "gap:1rem 2rem}\n"
    "figure{margin:1rem 0 0;overflow-x:auto}figcaption{min-height:1.5em}"
    "figcaption span{color:var(--soft);margin-left:.8rem;font-size:13px}\n"
    "table{border-collapse:separate;border-spacing:1px;font-size:11.5px;"
    "font-variant-numeric:tabular-nums;margin-top:.3rem}\n"
    ".map th{font-weight:500;text-align:right;padding:0 .5em 0 0;white-space:nowrap}"
    ".map .top{padding:.3em 0;vertical-align:bottom;text-align:left}\n"
    ".top span{writing-mode:vertical-rl;transform:rotate(180deg);display:block;margin:0 auto}\n"
    ".map td{width:3.3em;min-width:3.3em;height:1.95em;text-align:center;padding:0;"
    "border-radius:2px}\n"
    ".k0{--hue:var(--c1)}.k1{--hue:var(--c0)}\n"
    ".map td,.legend i{background:color-mix(in srgb,var(--hue,var(--c0)) var(--p,0%),var(--card))}"
    "\n"
    ".h0{--p:0%}.h1{--p:9%}.h2{--p:18%}.h3{--p:28%}.h4{--p:39%}.h5{--p:51%}.h6{--p:64%}"
    ".h7{--p:82%}.h8{--p:100%}\n"
    ".k2 .h0,.k2 .h1,.k2 .h2,.k2 .h3{--hue:var(--c0)}"
    ".k2 .h5,.k2 .h6,.k2 .h7,.k2 .h8{--hue:var(--c1)}\n"
    ".k2 .h0,.k2 .h8{--p:100%}.k2 .h1,.k2 .h7{--p:66%}.k2 .h2,.k2 .h6{--p:38%}"
    ".k2 .h3,.k2 .h5{--p:16%}.k2 .h4{--p:0%}\n"
    ".k0 .h7,.k0 .h8,.k1 .h7,.k1 .h8,.k2 .h0,.k2 .h8{color:var(--bg)}\n"
    "@media(prefers-color-scheme:dark){.k0 .h6,.k1 .h6,.k2 .h1,.k2 .h7{color:var(--bg)}}\n"
    ".map .best{font-weight:700;box-shadow:inset 0 0 0 1.5px var(--ink)}\n"
    ".map .u{color:color-mix(in srgb,var(--ink) 45%,var(--card));font-style:italic;"
    "background:color-mix(in srgb,var(--hue,var(--c0)) calc(var(--p,0%)*.35),var(--card))}\n"
    ".map .none{color:var(--soft);background:none}\n"
    ".map .x,.legend .x{background:repeating-linear-gradient(135deg,var(--hatch) 0 1px,"
    "transparent 1px 5px)}\n"
    ".legend{display:flex;flex-wrap:wrap;margin:.5rem 0 0;gap:1px;font-size:11px}"
    ".legend i{font-style:normal;padding:.2em .6em;font-variant-numeric:tabular-nums;"
    "white-space:nowrap}\n"
    ".note{color:var(--soft);font-size:13.5px;max-width:75em}.note i{display:inline-block;"
    "width:2.4em;height:1.1em;vertical-align:-.15em;margin-right:.4em}\n"
    "footer{margin-top:2rem;color:var(--soft);font-size:13px}\n";

void approx_page(FILE *out, const approx_lab *lab)
{
    const approx_data *d = &lab->data;
    double bounds[MEASURES][BOUNDS];
    for (int i = 0; i < MEASURES; i++)
        find_bounds(lab, &measures[i], bounds[i]);
    fputs("<!doctype html>\n<html lang=en><meta charset=utf-8>"
          "<meta name=viewport content='width=device-width,initial-scale=1'>\n"
          "<title>Approximation of attention</title>\n<style>\n",
          out);
    fputs(style, out);
    fputs("</style>\n<main><header><h1>How well random features approximate attention</h1>\n<p>",
          out);
    write_escaped(out, d->source);
    fprintf(out,
            " · %lld queries, %lld keys of size %lld in %lld head%s · %s kernel · %lld draws of "
            "each matrix · seed %llu</p></header>\n",
            (long long)d->T, (long long)d->S, (long long)d->D, (long long)(d->B * d->H),
            d->B * d->H > 1 ? "s" : "", lab->target == SPECTRA_GAUSSIAN ? "Gaussian" : "softmax",
            (long long)lab->trials, (unsigned long long)lab->seed);
    write_cards(out, lab);
    fputs("<p class=note>Rows are component functions, columns weight matrices; the pointer on a "
          "cell tells everything known of it. A frame marks the best matrix of a function. "
          "<span class=legend style='display:inline'><i class=x></i></span>do not go together, the "
          "pointer says why.</p>\n",
          out);
    for (int s = 0; s < lab->sizes; s++) {
        fprintf(out, "<h2>m = %lld rows</h2>\n<section class=maps>\n", (long long)lab->size[s]);
        for (int i = 0; i < MEASURES; i++)
            write_map(out, lab, &measures[i], bounds[i], s);
        fputs("</section>\n", out);
    }
    fprintf(out, "<footer>spectraformer %s</footer></main></html>\n", spectra_version());
}
