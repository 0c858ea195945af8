// The state of each kind of figure, as its Python class writes it.

interface Named {
  kind: string;
  title: string;
  caption: string;
}

interface Look {
  color: string;
  dark: string;
  dash: number[];
}

interface Method extends Look {
  name: string;
}

/** Answers to the images of a split: by place, then by image. */
interface Answers {
  answers?: number[][];
  sure?: number[][];
}

/** A strip of images, side by side in one sprite. */
interface Images {
  sprite: string;
  shape: [number, number];
  truth: number[];
  classes: string[];
  why: string;
}

interface Curve extends Answers {
  loss: number[];
  excess: number[];
  accuracy: number[];
  barrier: number;
  barrier_at: number;
  accuracy_barrier: number;
}

interface Written {
  tokens: string[][];
  nats: string[];
}

interface CurvesState extends Named {
  lambdas: number[];
  splits: string[];
  methods: (Method & { end: string })[];
  curves: Curve[][];
  images: (Images | null)[];
  texts: { prompt: string; written: (Written | null)[] } | null;
}

interface PlaneState extends Named {
  images: Images | null;
  ground: Answers;
  names: string[];
  x: number[];
  y: number[];
  loss: number[][];
  corners: number[][];
  lambdas: number[];
  paths: (Method & Answers & { loss: number[]; barrier: number })[];
  levels: number[];
  colors: string[];
  regions: string[];
}

interface Surface extends Answers {
  loss: number[];
  excess: number[];
  accuracy: number[];
  barrier: number;
  at: number;
  regions: string[];
}

interface SimplexState extends Named {
  n: number;
  places: number[][];
  splits: string[];
  methods: Method[];
  levels: number[][];
  surfaces: Surface[][];
  images: (Images | null)[];
}

interface TypeTable {
  name: string;
  bus: string | null;
  sites: Record<
    string,
    Look & {
      class: string;
      letter: string;
      words: string;
      size: number;
      within: string | null;
      count: number;
      free: number;
      splits: boolean;
    }
  >;
  params: Record<string, { axes: [string, string | null, boolean][]; shape: string; moved: string }>;
  rows: { block: string; sites: string[]; left: string[]; right: string[] }[];
}

interface SpecState extends Named {
  views: TypeTable[];
}

interface WalkState extends Named {
  site: string;
  header: string[];
  ways: string[];
  distance: number[][];
  change: number[][];
  labels: string[];
  answers: number[][][];
  picture: string | null;
  prompt: string;
  texts: string[][];
  blocks: { name: string; style: string; frames: number[][]; count: number }[];
}

interface AdderState extends Named {
  lambdas: number[];
  methods: (Method & { right: number[] })[];
  sums: [number, number][];
  unseen: number;
  sizes: { blocks: number; heads: number };
  shapes: Record<string, number[]>;
  networks: { codes: string; steps: number[] }[];
}

interface MatchingState extends Named {
  site: string;
  placed: number[];
  orders: number[][];
  excess: number[];
  likeness: number[];
  image: string;
}

interface Window {
  lmcFigures?: number;
}
