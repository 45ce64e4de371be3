"""What the operations of a graph do to a signal, by the small-letter names of autograd's nodes."""

from collections.abc import Iterable


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


LAYOUT = _names(
    "view unsafeview reshapealias viewasreal viewascomplex transpose permute t adjoint movedim squeeze unsqueeze",
    "clone contiguous alias asstrided tocopy copy expand unflatten flatten swapaxes lift liftfresh roll flip",
    "pixelshuffle pixelunshuffle viewdtype unfold channelshuffle nativechannelshuffle viewcopy detach backwardhook",
)
SLICES = _names(
    "slice narrow select split splitwithsizes unsafesplit unsafesplitwithsizes chunk unbind index indexselect gather",
    "take diagonal",
)
PADS = _names("constantpadnd cat")
SCALES = _names("mul div neg")
DROPOUTS = _names("nativedropout fuseddropout alphadropout featuredropout")
ACTIVATIONS = _names(
    "relu gelu silu sigmoid tanh leakyrelu hardswish hardtanh hardsigmoid elu mish softplus prelu celu selu threshold",
    "clamp clampmin clampmax logsigmoid softshrink hardshrink softsign glu rrelu rreluwithnoise softmax logsoftmax erf",
)
NORMS = _names(
    "nativebatchnorm cudnnbatchnorm miopenbatchnorm nativebatchnormlegit batchnormwithupdate nativelayernorm",
    "nativegroupnorm fusedrmsnorm instancenorm batchnormimpl syncbatchnorm",
)
POOLS = _names(
    "avgpool1d avgpool2d avgpool3d maxpool1d maxpool2d maxpool2dwithindices maxpool3dwithindices mkldnnmaxpool2d mean",
    "adaptiveavgpool2d adaptiveavgpool3d adaptivemaxpool2d mkldnnadaptiveavgpool2d amax max",
)
RESAMPLINGS = _names(
    "upsamplenearest1d upsamplenearest2d upsamplenearest3d upsamplenearestexact1d upsamplenearestexact2d",
    "upsamplenearestexact3d upsamplebilinear2d upsamplebilinear2daa upsamplebicubic2d upsamplebicubic2daa",
    "upsamplelinear1d upsampletrilinear3d gridsampler2d gridsampler3d",
)
SPREADS = _names("rsqrt sqrt std stdmean var varmean linalgvectornorm norm")
"""Their presence beside products means a normalisation written out by hand."""
ELEMENTWISE = _names(
    "mul div add sub rsub addcmul addcdiv neg pow lerp where maskedfill exp exp2 expm1 log log1p log2 sqrt rsqrt abs",
    "maximum minimum fmax fmin logaddexp remainder fmod atan2 hypot reciprocal square sin cos cumsum sum prod",
)
READS = _names("embedding embeddingbag stack maskedscatter indexput scatter slicescatter selectscatter")
NOT_MIXING = ELEMENTWISE | NORMS | LAYOUT | SLICES | PADS | ACTIVATIONS | READS
PRODUCTS = _names("mm bmm addmm baddbmm addbmm mv addmv dot scaleddotproductflashattentionforcpu")
TRANSFORMS = _names("fftc2c fftr2c fftc2r")
"""Mix entries by a fixed matrix: layers without parameters."""
GATES = _names("sigmoid softmax hardsigmoid tanh hardtanh clamp")

WORDS = (
    (ACTIVATIONS, None),
    (NORMS, "normalisation"),
    (POOLS, "pooling"),
    (RESAMPLINGS, "resampling"),
    (DROPOUTS, "dropout"),
    (SCALES, "scaling"),
)
"""How a reader calls the operations of a group; None: by their own names."""


def in_words(kinds: Iterable[str]) -> tuple[str, ...]:
    """A chain of operations in a reader's words: layout left out, a normalisation written by hand named as one.

    >>> in_words(["pow", "mean", "add", "rsqrt", "mul", "mul"])
    ('normalisation',)
    >>> in_words(["view", "nativebatchnorm", "relu"])
    ('normalisation', 'relu')
    """
    met = [kind for kind in kinds if kind not in LAYOUT]
    if SPREADS.intersection(met):
        return ("normalisation", *(kind for kind in met if kind in ACTIVATIONS))
    words: list[str] = []
    for kind in met:
        word = next((name or kind for group, name in WORDS if kind in group), None)
        words.append(word or kind)
    return tuple(words)
