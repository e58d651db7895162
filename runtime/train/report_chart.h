/* Line charts as inline SVG for the report. Colours are not in the SVG but CSS classes of the page:
 * s0, s1, ... for series, `grid`, `tick` and `base` for the rest.
 */
#ifndef SPECTRA_TRAIN_REPORT_CHART_H
#define SPECTRA_TRAIN_REPORT_CHART_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct chart_series {
    const char *name;
    int64_t n;
    const double *x, *y;      /* x rising */
    const double *low, *high; /* a band around y; NULL: none */
    bool marks;               /* a dot at every point */
} chart_series;

typedef struct chart {
    const char *title, *x_label;
    bool percent;  /* y is a share, shown as per cent */
    double x_high; /* right end; the left one is 0 */
    double base;   /* a dashed horizontal line; NAN: none */
    const char *base_name;
    int count;
    chart_series series[3];
} chart;

void chart_write(FILE *out, const chart *c);

#endif
