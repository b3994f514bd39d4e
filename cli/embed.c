/*
 * Writes a C source with the bytes of files in it to standard output, a program of the build, not
 * installed: "embed NAME FILE NAME FILE ..." gives `const char NAME[]`, ended by a NUL, for each.
 */
#include <stdio.h>

static int embed(const char *name, const char *path)
{
    FILE *file = fopen(path, "rb");
    int byte;

    if (!file) {
        perror(path);
        return 1;
    }
    printf("extern const char %s[];\nconst char %s[] = {\n", name, name);
    for (unsigned column = 1; (byte = getc(file)) != EOF; column++) {
        /* as the type is: a byte above 127 may be negative there */
        printf("'\\%03o',%s", (unsigned)byte, column % 16 ? "" : "\n");
    }
    puts("0};");
    int bad = ferror(file);
    if (bad)
        perror(path);
    fclose(file);
    return bad;
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (embed(argv[i], argv[i + 1]))
            return 1;
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
