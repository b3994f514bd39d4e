"""A headless Chromium, driven through chromedriver (W3C WebDriver, with Chromium's own log and
DevTools commands). Debian's packages chromium and chromium-driver."""
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request

PATIENCE = 60  # seconds until a browser that hangs is a failure
PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element in WebDriver's JSON


def programs():
    """The paths of both programs; what is missing is named as its package."""
    found = {name: shutil.which(name) for name in PACKAGES}
    missing = [PACKAGES[name] for name, path in found.items() if not path]
    if missing:
        raise RuntimeError("no browser here: sh docs/install.sh browser installs " + " and ".join(missing))
    return found


class Browser:
    """One window. `folder`, which must not exist, becomes its profile and its home."""

    def __init__(self, folder):
        found = programs()
        os.mkdir(folder)
        env = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "LC_ALL": "C.UTF-8"}
        self.driver = subprocess.Popen([found["chromedriver"], "--port=0"], env=env, cwd=folder,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True)
        self.session = None
        try:
            self.url = f"http://127.0.0.1:{self.read_port()}"
            self.session = self.start(found["chromium"], os.path.join(folder, "profile"))
            self.open("about:blank")
            self.requests()  # of the page that the browser itself began with
        except BaseException:
            self.close()
            raise

    def read_port(self):
        for line in self.driver.stdout:
            told = re.search(r"started successfully on port (\d+)", line)
            if told:
                return int(told[1])
        raise RuntimeError("chromedriver ended before it was ready")

    def start(self, chromium, profile):
        args = ["--headless=new", "--user-data-dir=" + profile, "--no-first-run", "--disable-gpu",
                "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"]
        if os.geteuid() == 0:
            args.append("--no-sandbox")  # Chromium refuses to sandbox what root runs
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"binary": chromium, "args": args},
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        return self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"},
                                         method=method)
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def post(self, path, **body):
        return self.call("POST", f"/session/{self.session}{path}", body)

    def open(self, url):
        self.post("/url", url=url)

    def run(self, script, *args):
        """What a script returns."""
        return self.post("/execute/sync", script=script, args=args)

    def devtools(self, command, **params):
        return self.post("/goog/cdp/execute", cmd=command, params=params)

    def resize(self, width, height=900):
        """The page's width in CSS pixels; a window could not be as narrow as a phone."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=1, mobile=False)

    def find(self, selector):
        return self.post("/element", using="css selector", value=selector)[ELEMENT]

    def click(self, selector):
        self.post(f"/element/{self.find(selector)}/click")

    def press(self, selector, keys):
        self.post(f"/element/{self.find(selector)}/value", text=keys)

    def log(self):
        """What was written to the console since the last call."""
        return self.post("/se/log", type="browser")

    def requests(self):
        """The address of everything that was asked for since the last call."""
        events = [json.loads(entry["message"])["message"]
                  for entry in self.post("/se/log", type="performance")]
        return [event["params"]["request"]["url"] for event in events
                if event["method"] == "Network.requestWillBeSent"]

    def close(self):
        try:
            if self.session:
                self.call("DELETE", f"/session/{self.session}")
        finally:
            self.driver.terminate()
            try:
                self.driver.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.driver.kill()
                self.driver.wait()
            self.driver.stdout.close()
