/* Paths: from UTF-8 to what Windows calls a path.
 *
 * File names on Windows are any sequences of 16-bit units, lone surrogates included, which Python encodes like other
 * characters ("surrogatepass"). MultiByteToWideChar() would turn each of them into U+FFFD, and so take two files for
 * one: hence this exact converter, in which different names stay different.
 */
#include "path.h"
#include "sys.h"

#include <errno.h>
#include <string.h>
#include <wchar.h>

#define NOT_UTF8 0xffffffffu

/* One character, and the cursor behind it; or NOT_UTF8. A cut-off character ends at the zero, which continues none. */
static uint32_t decode(const unsigned char **cursor) {
    const unsigned char *byte = *cursor;
    int more = *byte < 0x80 ? 0 : *byte < 0xc2 ? -1 : *byte < 0xe0 ? 1 : *byte < 0xf0 ? 2 : *byte < 0xf5 ? 3 : -1;
    if (more < 0)
        return NOT_UTF8;
    static const uint32_t smallest[] = {0, 0x80, 0x800, 0x10000}; /* a longer form than needed would be an alias */
    uint32_t character = more == 0 ? *byte : *byte & (0x3fu >> more);
    for (int i = 1; i <= more; i++) {
        if ((byte[i] & 0xc0) != 0x80)
            return NOT_UTF8;
        character = character << 6 | (byte[i] & 0x3fu);
    }
    *cursor = byte + more + 1;
    return character >= smallest[more] && character <= 0x10ffff ? character : NOT_UTF8;
}

/* The length of the converted text, or -EINVAL or -ENAMETOOLONG. */
static int to_utf16(const char *utf8, WCHAR *text) {
    const unsigned char *cursor = (const unsigned char *)utf8;
    int length = 0;
    while (*cursor != 0) {
        uint32_t character = decode(&cursor);
        if (character == NOT_UTF8)
            return -EINVAL;
        if (length + 2 >= HF__PATH_SIZE)
            return -ENAMETOOLONG;
        if (character >= 0x10000) {
            text[length++] = (WCHAR)(0xd7c0 + (character >> 10));
            text[length++] = (WCHAR)(0xdc00 + (character & 0x3ff));
        } else {
            text[length++] = (WCHAR)character;
        }
    }
    text[length] = 0;
    return length;
}

static bool starts_with(const WCHAR *text, const WCHAR *start) {
    return wcsncmp(text, start, wcslen(start)) == 0;
}

/* Put the prefix before a long path that lifts the limit of MAX_PATH. It also ends the interpretation of "/", "." and
   "..", and of relative paths: so those are resolved first. */
static int prefix_long(hf__path *path) {
    hf__path full;
    DWORD length = hf__sys.GetFullPathNameW(path->text, HF__PATH_SIZE, full.text, NULL);
    if (length == 0)
        return hf__error(GetLastError());
    bool special = starts_with(full.text, L"\\\\?\\") || starts_with(full.text, L"\\\\.\\");
    bool share = !special && starts_with(full.text, L"\\\\");
    const WCHAR *prefix = special ? L"" : share ? L"\\\\?\\UNC\\" : L"\\\\?\\";
    const WCHAR *rest = full.text + (share ? 2 : 0);
    if (length >= HF__PATH_SIZE || wcslen(prefix) + wcslen(rest) >= HF__PATH_SIZE)
        return -ENAMETOOLONG;
    wcscpy(path->text, prefix);
    wcscat(path->text, rest);
    return 0;
}

/* A short path is left as it is: where a long current directory makes a relative one too long, the system says so. */
int hf__path_convert(const char *utf8, hf__path *path) {
    int length = to_utf16(utf8, path->text);
    if (length < 0)
        return length;
    return length < MAX_PATH || starts_with(path->text, L"\\\\?\\") ? 0 : prefix_long(path);
}

bool hf__random_name(WCHAR *name) {
    uint64_t random[2];
    if (!hf__sys.RtlGenRandom(random, sizeof random))
        return false;
    for (int i = 0; i < HF__RANDOM_NAME; i++)
        name[i] = (WCHAR)(L'a' + (random[i % 2] >> i / 2 * 4 & 15));
    name[HF__RANDOM_NAME] = 0;
    return true;
}
