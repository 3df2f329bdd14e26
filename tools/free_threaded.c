/*
 * Make a Python of a program that has one inside. Preloaded, it puts its own main() in place of the program's, which
 * does what `python` does with a script, -c and -m. The function that CPython has for this was not linked into it.
 */
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>

typedef int main_function(int, char **, char **);
typedef int start_function(main_function *, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);

static const char run[] = "import sys, runpy\n"
                          "kind, what = sys._orders\n"
                          "del sys._orders\n"
                          "if kind == 'code':\n"
                          "    sys.path.insert(0, '')\n"
                          "    del kind, runpy\n"
                          "    exec(compile(what, '<string>', 'exec'))\n"
                          "elif kind == 'module':\n"
                          "    import os\n"
                          "    sys.path.insert(0, os.getcwd())\n"
                          "    runpy._run_module_as_main(what)\n"
                          "else:\n"
                          "    runpy.run_path(what, run_name='__main__')\n";

static void check(PyStatus status) {
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static int python(int argc, char **argv, char **environment) {
    (void)environment;
    const char *others = getenv("FREE_THREADED_PRELOAD");
    unsetenv("LD_PRELOAD"); /* for this program, not for those that it starts */
    unsetenv("LD_LIBRARY_PATH");
    if (others != NULL && *others != 0)
        setenv("LD_PRELOAD", others, 1);
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    check(PyConfig_SetBytesArgv(&config, argc, argv));
    check(PyConfig_SetBytesString(&config, &config.home, getenv("FREE_THREADED_HOME")));
    check(PyConfig_SetBytesString(&config, &config.executable, getenv("FREE_THREADED_PROGRAM")));
    check(PyConfig_Read(&config));
    const char *kind = config.run_command ? "code" : config.run_module ? "module" : "file";
    const wchar_t *what = config.run_command  ? config.run_command
                          : config.run_module ? config.run_module
                                              : config.run_filename;
    if (what == NULL) {
        fputs("usage: python3.14t -c CODE | -m MODULE | FILE\n", stderr);
        return 2;
    }
    wchar_t *kept = wcsdup(what); /* the configuration is Python's own from here on */
    check(Py_InitializeFromConfig(&config));
    PySys_SetObject("_orders", Py_BuildValue("(su)", kind, kept));
    int failed = PyRun_SimpleString(run);
    return Py_FinalizeEx() < 0 ? 120 : failed != 0;
}

int __libc_start_main(main_function *original, int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end) {
    start_function *start = (start_function *)dlsym(RTLD_NEXT, "__libc_start_main");
    main_function *program = getenv("FREE_THREADED_HOME") ? python : original;
    return start(program, argc, argv, init, fini, rtld_fini, stack_end);
}
