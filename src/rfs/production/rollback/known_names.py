"""What the names of files and folders usually mean, for `detect`."""

from __future__ import annotations

import re

MADE_AGAIN = frozenset(
    {
        ".cache", ".git", ".hg", ".hypothesis", ".idea", ".mypy_cache", ".nox", ".parcel-cache", ".pytest_cache",
        ".ruff_cache", ".svn", ".tox", ".vscode", "__pycache__",
    }
)  # fmt: skip
# Packages that were installed into the application are of its release: old code does not run on a newer framework.
INSTALLED = frozenset({".venv", "bower_components", "node_modules", "site-packages", "vendor", "venv"})
# Left out where they hold no code: a package may well be called "log".
PASSING = frozenset({"log", "logs", "tmp", "temp"})
CODE = (".py", ".js", ".ts", ".mjs", ".rb", ".go", ".php", ".java", ".rs", ".ex", ".html", ".css", ".so")
UPLOADS = frozenset({"attachments", "media", "upload", "uploads", "user-uploads", "user_uploads"})
NOT_CONFIGURATION = frozenset(
    {
        "docs", "doc", "fixtures", "i18n", "lang", "locale", "locales", "migrations", "public", "spec", "static",
        "templates", "test", "testdata", "tests", "translations", ".github", ".circleci",
    }
)  # fmt: skip
MANIFESTS = frozenset(
    {
        "alembic.ini", "angular.json", "app.json", "babel.config.json", "bower.json", "cargo.toml", "codecov.yml",
        "composer.json", "deno.json", "jsconfig.json", "lerna.json", "manifest.json", "mkdocs.yml", "mypy.ini",
        "netlify.toml", "nx.json", "openapi.json", "openapi.yaml", "package.json", "pyproject.toml", "pytest.ini",
        "rfs.toml", "ruff.toml", "setup.cfg", "swagger.json", "taskfile.yml", "tox.ini", "turbo.json", "vercel.json",
        "rust-toolchain.toml", "pnpm-workspace.yaml", "package-lock.json", "pnpm-lock.yaml", "composer.lock",
    }
)  # fmt: skip
CONFIG_FORMATS = (".toml", ".yaml", ".yml", ".json", ".ini")
CONFIG_WORDS = re.compile(
    r"app(lication|settings)?|conf(ig(uration)?)?|settings?|secrets?|logging|database|prod(uction)?"
)
CONFIG_FOLDERS = frozenset({"conf", "config", "configs", "configuration", "etc", "settings"})
ENV_EXAMPLES = (".example", ".sample", ".template", ".dist")
COMPOSE = frozenset({"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"})
