/* Whole files read into memory, and SHA-256 hashes of bytes. Keys and contents of compiled kernels
 * use both. Files are written with outfile.h. */
#ifndef SPECTRA_BASE_BYTES_H
#define SPECTRA_BASE_BYTES_H

#include "spectraformer.h"

/* SHA-256 in hexadecimal digits. */
enum { SHA256_DIGITS = 64 };
typedef char sha256_hex[SHA256_DIGITS + 1];

/* Bytes that are owned. */
typedef struct byte_buffer {
    char *data;
    size_t size;
} byte_buffer;

void sha256_of(const void *data, size_t size, sha256_hex out);
/* The whole of a file of at most `limit` bytes. SPECTRA_EIO, SPECTRA_EFORMAT, SPECTRA_ENOMEM. */
spectra_status read_whole_file(const char *path, size_t limit, byte_buffer *out);

#endif
