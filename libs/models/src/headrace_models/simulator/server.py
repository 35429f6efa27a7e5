"""The simulator as a server: all providers on one port, and a control API for faults and evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from headrace_models.conversation import ChatMessage
from headrace_models.simulator.anthropic_batch_wire import AnthropicBatchWire
from headrace_models.simulator.anthropic_wire import AnthropicWire
from headrace_models.simulator.batch_jobs import BatchFault, BatchJobs
from headrace_models.simulator.catalog import DEFAULT_NODES
from headrace_models.simulator.exchange import SimulatorState, json_object, put_simulated_header
from headrace_models.simulator.faults import Fault, FaultKind, FaultPlan
from headrace_models.simulator.hostile import ELSEWHERE
from headrace_models.simulator.node_settings import NodeSettings
from headrace_models.simulator.ollama_node import SimulatedNode
from headrace_models.simulator.ollama_wire import OllamaWire
from headrace_models.simulator.openai_batch_wire import OpenAIBatchWire
from headrace_models.simulator.openai_wire import OpenAIWire
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.received import RequestRecorder
from headrace_models.simulator.searxng_wire import SearXNGWire
from headrace_models.simulator.tavily_wire import TavilyWire

_LARGEST_BODY = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """How the simulator runs. Port 0 chooses a free one."""

    host: str = "127.0.0.1"
    port: int = 0
    speed: Speed = field(default_factory=Speed)
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: DEFAULT_NODES)
    """Our own nodes and their models, each behind Ollama's API and an OpenAI-compatible one."""
    slots_per_node: int = 4
    """Calls of one loaded model that a node runs at once, where `servers` says nothing of it."""
    servers: Mapping[str, NodeSettings] = field(default_factory=dict)
    """How these nodes are set."""
    log: Path | None = None
    """File for JSON lines of what each provider was sent: hashes and sizes, and the texts with `log_texts`."""
    log_texts: bool = False


class Simulator:
    """All simulated providers; usable as an async context manager."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self.faults = FaultPlan()
        self.evidence = RequestRecorder(config.log, log_texts=config.log_texts)
        self.nodes: Mapping[str, SimulatedNode] = {
            name: SimulatedNode(
                models, config.servers.get(name) or NodeSettings(num_parallel=config.slots_per_node), config.speed
            )
            for name, models in config.nodes.items()
        }
        """The Ollama servers. Their settings may be changed while they run."""
        self.batches = BatchJobs(config.speed)
        """The providers' batches."""
        self.files: OpenAIBatchWire
        """Files of batches; set at the start."""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError when the address is taken."""
        world = SimulatorState(self._config.speed, self.faults, self.evidence)
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.on_response_prepare.append(put_simulated_header)
        OllamaWire(world, self.nodes).add_routes(app)
        groq, anthropic = OpenAIWire(world), AnthropicWire(world)
        groq.add_routes(app)
        self.files = OpenAIBatchWire(world, groq, self.batches)
        self.files.add_routes(app)
        OpenAIWire(world, self._config.nodes).add_routes(app)
        # Before the messages themselves, whose path theirs begins with.
        AnthropicBatchWire(world, anthropic, self.batches).add_routes(app)
        anthropic.add_routes(app)
        TavilyWire(world).add_routes(app)
        SearXNGWire(world).add_routes(app)
        app.router.add_route("*", f"/{ELSEWHERE}/{{path:.*}}", self._elsewhere)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/control/faults", self._faults_met)
        app.router.add_post("/control/faults", self._add_fault)
        app.router.add_delete("/control/faults", self._clear_faults)
        app.router.add_post("/control/batches", self._add_batch_fault)
        app.router.add_get("/control/nodes", self._node_settings)
        app.router.add_post("/control/nodes/{node}", self._change_node)
        app.router.add_get("/control/received", self._received)
        app.router.add_delete("/control/received", self._forget)
        app.router.add_post("/control/search", self._search)
        # A caller that disconnects ends the answer, as with a real server.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._config.host, self._config.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.evidence.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Base address, without a trailing slash."""
        if self._runner is None:
            raise RuntimeError("the simulator is not started")
        return f"http://{self._config.host}:{self._runner.addresses[0][1]}"

    def ollama_url(self, node: str) -> str:
        """Value for an Ollama client's host."""
        return f"{self.url}/ollama/{node}"

    def vllm_url(self, node: str) -> str:
        """Base URL of a node's OpenAI-compatible API, for a client that sends no key."""
        return f"{self.url}/vllm/{node}/v1"

    @property
    def groq_url(self) -> str:
        """Value for an OpenAI client's base URL."""
        return f"{self.url}/groq/openai/v1"

    @property
    def anthropic_url(self) -> str:
        return f"{self.url}/anthropic"

    @property
    def tavily_url(self) -> str:
        return f"{self.url}/tavily"

    def searxng_url(self, node: str) -> str:
        """Base URL of a simulated SearXNG."""
        return f"{self.url}/searxng/{node}"

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive", "nodes": {n: list(m) for n, m in self._config.nodes.items()}})

    async def _add_fault(self, request: web.Request) -> web.Response:
        """Body: provider, kind, and optionally count (1), node, model, retry_after (seconds)."""
        try:
            document = await json_object(request)
            fault = Fault(FaultKind(document["kind"]), document.get("retry_after"))
            self.faults.add(
                str(document["provider"]),
                fault,
                int(document.get("count", 1)),
                document.get("node"),
                document.get("model"),
            )
        except (ValueError, KeyError, TypeError) as error:
            kinds = ", ".join(FaultKind)
            return web.json_response({"error": f"a fault needs provider and kind ({kinds}): {error}"}, status=400)
        return web.json_response({"pending": self.faults.pending()})

    async def _add_batch_fault(self, request: web.Request) -> web.Response:
        """Body: provider, kind, and optionally count (1): what goes wrong with the next batches."""
        try:
            document = await json_object(request)
            self.batches.plan(str(document["provider"]), BatchFault(document["kind"]), int(document.get("count", 1)))
        except (ValueError, KeyError, TypeError) as error:
            kinds = ", ".join(BatchFault)
            return web.json_response({"error": f"it needs provider and kind ({kinds}): {error}"}, status=400)
        return web.json_response({})

    async def _faults_met(self, _request: web.Request) -> web.Response:
        """How many calls will still fail, and how many have met which fault of which provider."""
        met = [
            {"provider": provider, "kind": kind.value, "count": count}
            for (provider, kind), count in sorted(self.faults.taken.items())
        ]
        return web.json_response({"pending": self.faults.pending(), "met": met})

    async def _elsewhere(self, request: web.Request) -> web.Response:
        """Where redirects lead: whatever arrives is recorded, and answered as an error."""
        body = await request.read()
        text = body.decode("utf-8", "replace")
        self.evidence.record(ELSEWHERE, request.match_info["path"], "", (ChatMessage("user", text),))
        return web.json_response({"error": "nothing should have been sent here"}, status=400)

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({"pending": 0})

    async def _node_settings(self, _request: web.Request) -> web.Response:
        """How each node is set, and what it has in memory."""
        return web.json_response(
            {
                name: {
                    "settings": {key: value if not isinstance(value, frozenset) else sorted(value) for key, value in
                                 asdict(node.settings).items() if key != "token"},
                    "running": node.running(),
                    "waiting": node.memory.waiting,
                }
                for name, node in self.nodes.items()
            }
        )  # fmt: skip

    async def _change_node(self, request: web.Request) -> web.Response:
        """Body: settings of the node to change; `pull`: a model that it gets."""
        node = self.nodes.get(request.match_info["node"])
        if node is None:
            return web.json_response({"error": "no such node"}, status=404)
        try:
            document = await json_object(request)
            pulled = document.pop("pull", None)
            node.settings.change(document)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        if pulled:
            node.add(str(pulled))
        return web.json_response({"changed": sorted(document), "pulled": pulled})

    async def _received(self, request: web.Request) -> web.Response:
        """What was sent, to one `provider` or to all; the texts only with `texts=1`."""
        entries = self.evidence.of(request.query.get("provider"))
        with_texts = request.query.get("texts") == "1"
        return web.json_response(
            {
                "complete": self.evidence.complete,
                "count": len(entries),
                "received": [entry.describe(with_texts=with_texts) for entry in entries],
            }
        )

    async def _forget(self, _request: web.Request) -> web.Response:
        self.evidence.clear()
        return web.json_response({"count": 0})

    async def _search(self, request: web.Request) -> web.Response:
        """Body: needles, a list of texts. Returns which requests contained which, without repeating the texts."""
        document = await json_object(request)
        needles: Any = document.get("needles")
        if not isinstance(needles, list) or not all(isinstance(needle, str) and needle for needle in needles):
            return web.json_response({"error": "needles must be a list of non-empty texts"}, status=400)
        hits = [
            {"needle": index, "provider": entry.provider, "node": entry.node, "number": entry.number}
            for index, entry in self.evidence.search(needles)
        ]
        return web.json_response({"complete": self.evidence.complete, "hits": hits})
