"""Where everything in a scene stands: drawn from the seed alone, in metres, so that size changes no scene."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from numpy.random import Generator

from afdcd.data.streets.buildings import choose_backdrop, choose_house
from afdcd.data.streets.canvas import Canvas
from afdcd.data.streets.chance import pick, sign
from afdcd.data.streets.cyclists import choose_cyclist
from afdcd.data.streets.furniture import choose_fence, choose_pole
from afdcd.data.streets.ground import Street, choose_street
from afdcd.data.streets.light import Light, choose_light
from afdcd.data.streets.noise import Grain
from afdcd.data.streets.pedestrians import choose_pedestrian
from afdcd.data.streets.plants import Crown, choose_hedge, choose_tree, grow_crown
from afdcd.data.streets.signs import TrafficLight, choose_sign
from afdcd.data.streets.vehicles import choose_car

_FAR = 92.0


class Thing(Protocol):
    """Something that stands in the street."""

    @property
    def z(self) -> float:
        """Distance of its nearest part in metres."""

    def shadow(self, canvas: Canvas) -> None:
        """Cast a shadow on the ground."""

    def draw(self, canvas: Canvas, grain: Grain) -> None:
        """Paint it."""


@dataclass(frozen=True)
class Scene:
    """A planned scene. `layers` are painted in turn, each from far to near; `view` places the camera."""

    light: Light
    street: Street
    view: View
    layers: tuple[list[Thing], ...]


@dataclass(frozen=True)
class View:
    """The camera, free of any canvas: focal length and vanishing point as shares, eye height in metres."""

    focal: float
    across: float
    down: float
    eye: float


class Planner:
    """Fills the layers of one scene."""

    def __init__(self, rng: Generator, difficulty: float) -> None:
        self.rng = rng
        self.difficulty = difficulty
        self.light = choose_light(rng, difficulty)
        self.street = choose_street(rng, difficulty)
        self.crowns: list[Crown] = [grow_crown(rng, self.light.toward[0]) for _ in range(2)]
        self.autumn = bool(rng.random() < 0.15)
        self.houses: list[Thing] = [choose_backdrop(rng)]
        self.gardens: list[Thing] = []
        self.borders: list[Thing] = []
        self.standing: list[Thing] = []
        self._taken: list[tuple[float, float, float]] = []

    def scene(self) -> Scene:
        """Plan everything."""
        rng = self.rng
        view = View(
            rng.uniform(0.6, 0.82), rng.uniform(0.38, 0.62), rng.uniform(0.4, 0.52), rng.uniform(1.3, 1.9)
        )
        for side in (-1, 1):
            self._line(side)
            self._poles(side)
            self._street_trees(side)
            self._parked(side)
        self._traffic()
        self._signs()
        self._people()
        layers = (self.houses, self.gardens, self.borders, self.standing)
        return Scene(self.light, self.street, view, layers)

    def _count(self, mean: float) -> int:
        """How many of something; harder scenes hold more."""
        return int(self.rng.poisson(mean * (0.6 + 0.8 * self.difficulty)))

    def _distance(self, near: float, far: float) -> float:
        """How far away; harder scenes reach further."""
        reach = near + (far - near) * (0.5 + self.difficulty)
        return float(near + (reach - near) * self.rng.random() ** 1.25)

    def _free(self, x: float, z: float, room: float) -> bool:
        """Take a place on the ground, unless something stands within `room` metres."""
        if any(math.hypot(x - a, (z - b) * 0.8) < max(room, r) for a, b, r in self._taken):
            return False
        self._taken.append((x, z, room))
        return True

    def _after_crossing(self, start: float, length: float) -> float | None:
        """Where to go on if a lot of that length would stand on the side street, else None."""
        if self.street.crossing:
            begin, width = self.street.crossing
            if start < begin + width + 0.5 and start + length > begin - 2.5:
                return begin + width + 2.5
        return None

    def _line(self, side: int) -> None:
        """Build up one side: a closed row, detached houses behind gardens, or a park."""
        rng, border = self.rng, self.street.border(side)
        kind = pick(rng, ("row", "gardens", "park"), (0.58, 0.29, 0.13))
        setback = 0.0 if kind == "row" else rng.uniform(2.5, 5)
        z, exposed = rng.uniform(1.5, 5), True
        while z < _FAR:
            open_lot = kind == "park" or rng.random() < (0.06 if kind == "row" else 0.16)
            front = border + side * (setback + rng.uniform(0, 0.25))
            house = choose_house(rng, side, front, z, detached=kind == "gardens", exposed=exposed)
            length = house.span[1] - house.span[0]
            onward = self._after_crossing(z, length)
            if onward is not None:
                z, exposed = onward, True
                continue
            if not open_lot:
                self.houses.append(house)
            else:
                self._grove(side, border, z, length)
            if kind != "row" and z < 50:
                self._enclose(border, z, length)
                if rng.random() < 0.5:
                    tree_z = z + rng.uniform(0.2, 0.8) * length
                    self.gardens.append(
                        choose_tree(
                            rng, self.crowns, border + side * rng.uniform(1, 2.5), tree_z, self.autumn
                        )
                    )
            exposed = open_lot or kind != "row"
            z += length + (0.0 if kind == "row" else rng.uniform(1, 4))

    def _grove(self, side: int, border: float, z: float, length: float) -> None:
        """Trees on an open lot."""
        for _ in range(int(self.rng.integers(2, 5))):
            x = border + side * self.rng.uniform(2, 9)
            self.houses.append(
                choose_tree(self.rng, self.crowns, x, z + self.rng.random() * length, self.autumn)
            )

    def _enclose(self, border: float, z: float, length: float) -> None:
        """A fence or a hedge in front of a lot."""
        lot, draw = (z, z + length * self.rng.uniform(0.75, 1.0)), self.rng.random()
        if draw < 0.58:
            self.borders.append(choose_fence(self.rng, border, lot))
        elif draw < 0.85:
            self.borders.append(choose_hedge(self.rng, border, lot))

    def _poles(self, side: int) -> None:
        """Posts at the kerb, a guard rail now and then, traffic lights at a side street."""
        rng, street = self.rng, self.street
        x = street.edge(side) + side * rng.uniform(0.35, 0.6)
        z = rng.uniform(4, 11)
        while z < 60 and rng.random() < 0.9:
            if self._after_crossing(z, 0) is None and self._free(x, z, 0.5):
                self.standing.append(choose_pole(rng, x, z, -side))
            z += rng.uniform(9, 18)
        if rng.random() < 0.22:
            begin = rng.uniform(4, 12)
            for step in range(int(rng.integers(2, 5))):
                span = (begin + 2 * step, begin + 2 * step + 1.9)
                if self._after_crossing(span[0], 1.9) is None:
                    self.standing.append(choose_fence(rng, street.edge(side) + side * 0.25, span))
        if street.crossing and street.crossing[0] < 26 and rng.random() < 0.6:
            self.standing.append(TrafficLight(x, street.crossing[0] - 1.5, int(rng.integers(3))))

    def _street_trees(self, side: int) -> None:
        """A row of trees on the pavement."""
        rng, street = self.rng, self.street
        if rng.random() > 0.42:
            return
        x = street.edge(side) + side * min(0.9, 0.4 * street.pavements[side > 0])
        z, step = rng.uniform(7, 14), rng.uniform(7, 13)
        while z < 60:
            if self._after_crossing(z, 0) is None and rng.random() < 0.85 and self._free(x, z, 0.8):
                self.standing.append(choose_tree(rng, self.crowns, x, z, self.autumn))
            z += step

    def _parked(self, side: int) -> None:
        """Cars along the kerb."""
        rng = self.rng
        if rng.random() > 0.36 + 0.25 * self.difficulty:
            return
        z = rng.uniform(6, 16)
        for _ in range(int(rng.integers(1, 6))):
            x = self.street.edge(side) - side * rng.uniform(1.0, 1.2)
            if self._after_crossing(z, 5) is None and self._free(x, z + 2.2, 2.6):
                self.standing.append(
                    choose_car(rng, x, z, 0.0 if side == self._drives_on() else math.pi, large=False)
                )
            z += rng.uniform(5.2, 9)

    def _drives_on(self) -> int:
        """The side of the road that the camera drives on."""
        return 1 if self.street.centre < 0 else -1

    def _traffic(self) -> None:
        """Moving vehicles ahead, oncoming, and on the side street."""
        rng, street, own = self.rng, self.street, self._drives_on()
        for _ in range(self._count(2.3)):
            lane = own if rng.random() < 0.45 else -own
            x = street.centre + lane * street.half * rng.uniform(0.36, 0.5)
            z = self._distance(6.5 if lane == own else 5.0, 28)
            if self._free(x, z + 2, 3.2):
                self.standing.append(choose_car(rng, x, z, 0.0 if lane == own else math.pi))
        if street.crossing and rng.random() < 0.35:
            x, z = (
                street.centre + rng.uniform(-1.4, 1.4) * street.half,
                street.crossing[0] + rng.uniform(1.5, 3.5),
            )
            if self._free(x, z, 3.2):
                self.standing.append(choose_car(rng, x, z, 0.5 * math.pi * sign(rng), large=False))

    def _signs(self) -> None:
        """Traffic signs at the kerbs."""
        for _ in range(1 + self._count(1.6)):
            side = sign(self.rng)
            x = self.street.edge(side) + side * self.rng.uniform(0.3, 0.9)
            z = self._distance(4.6, 14)
            if self._free(x, z, 0.6):
                self.standing.append(choose_sign(self.rng, x, z))

    def _people(self) -> None:
        """Pedestrians on the pavements and on the zebra, cyclists on the road."""
        rng, street = self.rng, self.street
        for _ in range(1 + self._count(3.0)):
            side = sign(rng)
            across = street.zebra is not None and rng.random() < 0.45
            x = street.edge(side) + side * rng.uniform(0.3, street.pavements[side > 0] - 0.3)
            z = self._distance(3.3, 15)
            if across and street.zebra is not None:
                x, z = street.centre + street.half * rng.uniform(-1, 1), street.zebra + rng.uniform(0.2, 2.2)
            if self._free(x, z, 0.5):
                self.standing.append(choose_pedestrian(rng, x, z, across=across))
        for _ in range(self._count(1.0)):
            across = rng.random() < 0.42
            side = sign(rng)
            x = street.centre + street.half * (
                rng.uniform(-0.9, 0.9) if across else side * rng.uniform(0.5, 0.9)
            )
            z = self._distance(3.6, 13)
            if self._free(x, z, 0.9):
                self.standing.append(choose_cyclist(rng, x, z, across=across))


def plan_scene(rng: Generator, difficulty: float) -> Scene:
    """Draw a scene from `rng`; `difficulty` is in 0..1."""
    return Planner(rng, difficulty).scene()
