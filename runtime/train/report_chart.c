#include "train/report_chart.h"

#include <math.h>

enum { WIDTH = 540, HEIGHT = 260, LEFT = 56, RIGHT = 14, TOP = 12, BOTTOM = 40 };

typedef struct axes {
    double x0, x1, y0, y1; /* data at the edges of the plot */
} axes;

static double place_x(const axes *a, double x)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * (x - a->x0) / (a->x1 - a->x0);
}

static double place_y(const axes *a, double y)
{
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - a->y0) / (a->y1 - a->y0);
}

/* The 1, 2 or 5 times a power of ten that cuts `span` into about `parts`. */
static double tick_step(double span, int parts)
{
    double raw = span / parts, power = pow(10, floor(log10(raw))), part = raw / power;
    return power * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
}

static axes find_axes(const chart *c)
{
    double low = HUGE_VAL, high = -HUGE_VAL;
    for (int s = 0; s < c->count; s++)
        for (int64_t i = 0; i < c->series[s].n; i++) {
            low = fmin(low, c->series[s].y[i]);
            high = fmax(high, c->series[s].y[i]);
        }
    if (!isnan(c->base)) {
        low = fmin(low, c->base);
        high = fmax(high, c->base);
    }
    if (!(low <= high))
        low = 0, high = 1;
    double margin = high > low ? 0.08 * (high - low) : 0.05 * fmax(fabs(high), 0.1);
    axes a = {0, c->x_high > 0 ? c->x_high : 1, low - margin, high + margin};
    if (low >= 0 && a.y0 < 0)
        a.y0 = 0;
    if (c->percent && a.y1 > 1)
        a.y1 = 1;
    return a;
}

static void write_count(FILE *out, double x)
{
    if (x >= 1000 && fmod(x, 100) == 0)
        fprintf(out, "%gk", x / 1000);
    else
        fprintf(out, "%g", x);
}

static void write_axes(FILE *out, const chart *c, const axes *a)
{
    double step = tick_step(a->y1 - a->y0, 5), bottom = HEIGHT - BOTTOM;
    for (double i = ceil(a->y0 / step); i * step <= a->y1 + 1e-9 * step; i++) {
        double y = place_y(a, i * step);
        fprintf(out, "<path class=grid d='M%d %.1fH%d'/>", LEFT, y, WIDTH - RIGHT);
        fprintf(out, "<text class=tick x=%d y=%.1f text-anchor=end>", LEFT - 8, y + 4);
        if (c->percent)
            fprintf(out, "%g %%</text>\n", round(i * step * 1e6) / 1e4);
        else
            fprintf(out, "%g</text>\n", round(i * step * 1e9) / 1e9);
    }
    step = fmax(tick_step(a->x1 - a->x0, 6), 1);
    for (double i = 0; i * step <= a->x1; i++) {
        double x = place_x(a, i * step);
        fprintf(out, "<path class=grid d='M%.1f %.1fv5'/>", x, bottom);
        fprintf(out, "<text class=tick x=%.1f y=%.1f text-anchor=middle>", x, bottom + 19);
        write_count(out, i * step);
        fputs("</text>\n", out);
    }
    fprintf(out, "<path class=axis d='M%d %.1fH%d'/>\n", LEFT, bottom, WIDTH - RIGHT);
    fprintf(out, "<text class=tick x=%d y=%d text-anchor=end>%s</text>\n", WIDTH - RIGHT,
            HEIGHT - 4, c->x_label);
}

static double clamp(double y, const axes *a)
{
    return fmin(fmax(y, a->y0), a->y1);
}

static void write_series(FILE *out, const chart_series *s, const axes *a, int number)
{
    if (s->low && s->n > 1) {
        fprintf(out, "<path class='band s%d' d='M", number);
        for (int64_t i = 0; i < s->n; i++)
            fprintf(out, "%.1f %.1fL", place_x(a, s->x[i]), place_y(a, clamp(s->high[i], a)));
        for (int64_t i = s->n - 1; i >= 0; i--)
            fprintf(out, "%.1f %.1f%s", place_x(a, s->x[i]), place_y(a, clamp(s->low[i], a)),
                    i ? "L" : "Z");
        fputs("'/>\n", out);
    }
    if (s->n > 1) {
        fprintf(out, "<path class='line s%d' d='M", number);
        for (int64_t i = 0; i < s->n; i++)
            fprintf(out, "%s%.1f %.1f", i ? "L" : "", place_x(a, s->x[i]), place_y(a, s->y[i]));
        fputs("'/>\n", out);
    }
    for (int64_t i = 0; i < s->n && (s->marks || s->n == 1); i++)
        fprintf(out,
                "<circle class='dot s%d' cx=%.1f cy=%.1f r=%s><title>%s, step %.0f: "
                "%.4g</title></circle>\n",
                number, place_x(a, s->x[i]), place_y(a, s->y[i]), s->n > 60 ? "2" : "3.2", s->name,
                s->x[i], s->y[i]);
}

void chart_write(FILE *out, const chart *c)
{
    axes a = find_axes(c);
    fprintf(out, "<figure><figcaption><b>%s</b>", c->title);
    for (int s = 0; s < c->count; s++)
        if (c->series[s].n)
            fprintf(out, "<span class='key s%d'>%s</span>", s, c->series[s].name);
    if (!isnan(c->base))
        fprintf(out, "<span class='key base'>%s</span>", c->base_name);
    fprintf(out, "</figcaption>\n<svg viewBox='0 0 %d %d' role=img aria-label='%s'>\n", WIDTH,
            HEIGHT, c->title);
    write_axes(out, c, &a);
    if (!isnan(c->base))
        fprintf(out, "<path class=base d='M%d %.1fH%d'/>\n", LEFT, place_y(&a, c->base),
                WIDTH - RIGHT);
    for (int s = 0; s < c->count; s++)
        write_series(out, &c->series[s], &a, s);
    fputs("</svg></figure>\n", out);
}
